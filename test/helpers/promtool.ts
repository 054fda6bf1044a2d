/** Prometheus's own checks, where they are installed: CI has them. */
import { spawnSync } from 'node:child_process'

export function hasPromtool (): boolean {
  return spawnSync('promtool', ['--version']).status === 0
}

/** Prometheus's own checks, where they are installed. */
import { spawnSync } from 'node:child_process'

/** Why they can't be asked here; false when they can. Where CI runs they have to be. */
export const noPromtool = spawnSync('promtool', ['--version']).status !== 0 && process.env['CI'] !== 'true' ? 'promtool is not installed (Debian: prometheus)' : false

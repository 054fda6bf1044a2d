/**
 * Which version of the package this is.
 */
import { readFileSync } from 'node:fs'

/** `0.1.0` */
export function packageVersion (): string {
  const { version } = JSON.parse(readFileSync(new URL(import.meta.resolve('fleet-gateway/package.json')), 'utf8')) as { version: string }
  return version
}

/**
 * This package as it lies on the disk, built or not: found by its own name.
 */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const manifest = new URL(import.meta.resolve('fleet-gateway/package.json'))

/** `0.1.0` */
export function packageVersion (): string {
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }
  return version
}

/** Absolute path of a file in the package. */
export function packageFile (name: string): string {
  return fileURLToPath(new URL(name, manifest))
}

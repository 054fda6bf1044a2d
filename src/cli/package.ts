/**
 * This package as it lies on the disk, built or not: found by its own name.
 */
import { fileURLToPath } from 'node:url'

const manifest = new URL(import.meta.resolve('fleet-gateway/package.json'))

/** Absolute path of a file in the package. */
export function packageFile (name: string): string {
  return fileURLToPath(new URL(name, manifest))
}

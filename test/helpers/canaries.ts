/** Values that are secrets for a test, one of each kind, and everything in which none of them may turn up. */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'

interface Canary {
  readonly kind: string
  readonly forms: readonly string[]
  readonly mayBeIn: RegExp | null
}

export interface Canaries {
  /** A new secret. @param mayBeIn where it has to be, or goes back to who sent it; everywhere else it is a leak */
  secret (kind: string, mayBeIn?: RegExp): string
  /** A secret that is there already, with parts of it that give it away. */
  known (kind: string, forms: readonly string[], mayBeIn?: RegExp): void
  /** Something that was said, written or sent somewhere. */
  gather (place: string, text: string | Buffer): void
  /** Every file below a folder. */
  gatherFiles (place: string, folder: string): Promise<void>
  /** All of a place. */
  textOf (place: string): string
  /** Each secret in each place where it must not be, with what stands around it. */
  leaks (): string[]
}

export function canaries (): Canaries {
  const all: Canary[] = []
  const places = new Map<string, string>()

  function gather (place: string, text: string | Buffer): void {
    places.set(place, (places.get(place) ?? '') + (typeof text === 'string' ? text : text.toString('latin1')) + '\n')
  }

  return {
    secret (kind, mayBeIn) {
      const text = `canary${createHash('sha256').update(`${kind} ${process.pid}`).digest('hex').slice(0, 20)}`
      // What is derived from a secret gives it away as well, or lets it be guessed at leisure.
      const forms = [text, Buffer.from(text).toString('base64').replace(/=+$/, '').slice(0, -1), Buffer.from(text).toString('hex'), createHash('sha256').update(text).digest('hex')]
      all.push({ kind, forms, mayBeIn: mayBeIn ?? null })
      return text
    },
    known (kind, forms, mayBeIn) { all.push({ kind, forms, mayBeIn: mayBeIn ?? null }) },
    gather,
    async gatherFiles (place, folder) {
      for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
        if (entry.isFile()) gather(`${place}: ${entry.name}`, await readFile(join(entry.parentPath, entry.name)))
      }
    },
    textOf: place => places.get(place) ?? '',
    leaks () {
      const found: string[] = []
      for (const { kind, forms, mayBeIn } of all) {
        for (const [place, text] of places) {
          if (mayBeIn?.test(place) === true) continue
          const at = forms.map(form => text.indexOf(form)).find(index => index !== -1)
          if (at !== undefined) found.push(`${kind} is in ${place}: …${text.slice(Math.max(0, at - 120), at + 60)}…`)
        }
      }
      return found
    }
  }
}

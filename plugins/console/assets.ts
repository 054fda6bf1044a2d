/**
 * The page as it was built (scripts/build-console.js): read once, kept in memory, as it is and compressed.
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'

/** A file of the page. */
export interface Asset {
  readonly name: string
  readonly type: string
  readonly body: Buffer
  readonly gzipped: Buffer
  readonly etag: string
  /** Its name changes with what is in it. */
  readonly isHashed: boolean
}

const types: Readonly<Record<string, string>> = { html: 'text/html; charset=utf-8', js: 'text/javascript; charset=utf-8', css: 'text/css; charset=utf-8', txt: 'text/plain; charset=utf-8' }

/** Beside this file in what is packed; where this file is a source, in what was built of it. */
const places = ['./page/', '../../dist/plugins/console/page/']

/** Every file of the page. @throws Error when it was not built */
export function readAssets (): Asset[] {
  const folder = places.map(place => fileURLToPath(new URL(place, import.meta.url))).find(candidate => existsSync(`${candidate}index.html`))
  if (folder === undefined) throw new Error('The console\'s page was not built: npm run build')
  return readdirSync(folder).filter(name => extensionOf(name) in types).map(name => {
    const body = readFileSync(folder + name)
    const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`
    return { name, type: types[extensionOf(name)]!, body, gzipped: gzipSync(body, { level: 9 }), etag, isHashed: /-[A-Z0-9]{8}\./.test(name) }
  })
}

function extensionOf (name: string): string {
  return name.slice(name.lastIndexOf('.') + 1)
}

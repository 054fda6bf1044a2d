/**
 * Puts what dist/src/typebox.js takes from TypeBox into it: one module instead of seven hundred. Part of `npm run build`.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = fileURLToPath(new URL('..', import.meta.url))
const file = join(root, 'dist/src/typebox.js')
const { version, license } = JSON.parse(readFileSync(join(root, 'node_modules/typebox/package.json'), 'utf8'))
const licence = readFileSync(join(root, 'node_modules/typebox/license'), 'utf8').trim()

await build({
  absWorkingDir: root,
  entryPoints: [file],
  outfile: file,
  allowOverwrite: true,
  bundle: true,
  minify: true,
  keepNames: true,
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  banner: { js: `/*\ntypebox ${version} (${license})\n\n${licence}\n*/` }
})
// The map of what the compiler wrote leads to src/typebox.ts and stays; that the rest is TypeBox's is said above.
writeFileSync(file, `${readFileSync(file, 'utf8').trimEnd()}\n//# sourceMappingURL=typebox.js.map\n`)

/**
 * Puts what dist/src/typebox.js takes from TypeBox into it: one module instead of seven hundred. Part of `npm run build`.
 */
import { readFileSync, rmSync } from 'node:fs'
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
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  banner: { js: `/*\ntypebox ${version} (${license})\n\n${licence}\n*/` }
})
rmSync(`${file}.map`, { force: true })

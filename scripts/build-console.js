/**
 * Builds the console's page into dist/plugins/console/page: one script, one style sheet, both named after what is in them, the page that
 * names them, and the licences of what is bundled. Part of `npm run build`.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = fileURLToPath(new URL('..', import.meta.url))
const source = join(root, 'plugins/console/page')
const target = join(root, 'dist/plugins/console/page')
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

rmSync(target, { recursive: true, force: true })
mkdirSync(target, { recursive: true })

const { metafile } = await build({
  absWorkingDir: root,
  entryPoints: [join(source, 'console.tsx')],
  outdir: target,
  entryNames: '[name]-[hash]',
  bundle: true,
  minify: true,
  metafile: true,
  format: 'esm',
  target: ['chrome123', 'firefox121', 'safari17.5'],
  jsx: 'automatic',
  jsxImportSource: 'preact',
  tsconfigRaw: '{}',
  legalComments: 'none', // the licences are in a file of their own
  define: { __VERSION__: JSON.stringify(version) }
})

const built = Object.keys(metafile.outputs).map(file => basename(file))
const [script] = built.filter(file => file.endsWith('.js'))
const [style] = built.filter(file => file.endsWith('.css'))
const page = readFileSync(join(source, 'template.html'), 'utf8').replace('{{script}}', script).replace('{{style}}', style)
writeFileSync(join(target, 'index.html'), page)

/** The packages of which something is in the bundle. */
const packages = new Set(Object.keys(metafile.inputs).flatMap(file => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file)?.[1] ?? []))
const licences = [...packages].sort().map(name => {
  const { version, license } = JSON.parse(readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8'))
  return `${name} ${version} (${license})\n\n${readFileSync(join(root, 'node_modules', name, 'LICENSE'), 'utf8').trim()}\n`
})
writeFileSync(join(target, 'licences.txt'), `What the console's page is built with.\n\n${licences.join(`\n${'-'.repeat(72)}\n\n`)}`)

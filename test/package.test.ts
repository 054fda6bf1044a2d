/** What would be published: which files, which ways in, and what is said about the packages it stands on. */
import t from 'tap'
import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import ts from 'typescript'
import * as index from '../src/index.ts'
import * as plugins from '../plugins/index.ts'

interface Manifest {
  version: string
  license: string
  exports: Record<string, string | { types: string, default: string }>
  bin: Record<string, string>
  dependencies: Record<string, string>
  devDependencies: Record<string, string>
}
interface PackedFile { path: string, size: number, mode: number }

const run = promisify(execFile)
const root = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string) => readFileSync(join(root, path), 'utf8')
const manifest = JSON.parse(read('package.json')) as Manifest
const pluginFolders = readdirSync(join(root, 'plugins'), { withFileTypes: true }).filter(entry => entry.isDirectory()).map(entry => entry.name)

/** Files below a folder of the repository, as a tarball names them; none when there is no such folder. */
function filesBelow (folder: string): string[] {
  try {
    return readdirSync(join(root, folder), { recursive: true, withFileTypes: true }).filter(entry => entry.isFile())
      .map(({ parentPath, name }) => join(parentPath, name).slice(root.length))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/** The console's page is bundled for browsers (scripts/build-console.js). */
const pageFolder = 'plugins/console/page/'
const sources = ['src', 'plugins'].flatMap(filesBelow).filter(path => !path.startsWith(pageFolder) && !path.endsWith('.d.ts'))

async function packedFiles (): Promise<PackedFile[]> {
  const { stdout } = await run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, maxBuffer: 16 * 1024 * 1024 })
  return (JSON.parse(stdout) as [{ files: PackedFile[] }])[0].files
}

t.test('the package holds what is needed to run and to read it, and nothing else', async t => {
  const files = await packedFiles()
  const built = sources.flatMap(source => ['.js', '.d.ts', '.js.map'].map(ending => `dist/${source.replace(/\.ts$/, ending)}`))
  const wanted = ['ARCHITECTURE.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'LICENSE', 'README.md', 'SECURITY.md', 'fleet.yaml', 'package.json', ...filesBelow('docs').filter(path => !path.startsWith('docs/images/')), ...filesBelow('schema'), ...built, ...filesBelow(`dist/${pageFolder}`)]

  const paths = new Set(files.map(({ path }) => path))
  t.same([...paths].filter(path => !wanted.includes(path)), [], 'nothing else (stale files in dist/ go with it)')
  t.same(wanted.filter(path => !paths.has(path)), [], 'nothing is missing')
  t.ok(files.reduce((sum, { size }) => sum + size, 0) < 5 * 1024 * 1024, 'it stays under 5 MiB')
  t.equal(filesBelow(`dist/${pageFolder}`).length, 4, 'of the page only what was built last')
  for (const path of Object.values(manifest.bin)) t.equal((files.find(file => file.path === path)?.mode ?? 0) & 0o111, 0o111, `${path} can be executed`)
})

t.test('source maps carry the sources they point at, which are not in the package', async t => {
  for (const source of sources) {
    const { sourcesContent } = JSON.parse(read(`dist/${source.replace(/\.ts$/, '.js.map')}`)) as { sourcesContent?: string[] }
    if (sourcesContent?.[0] !== read(source)) t.fail(`dist/${source} is not what the map says`)
  }
  t.ok(sources.length > 50)
})

t.test('each way in leads to a built file with its types', async t => {
  const built = new Set(filesBelow('dist'))
  for (const [name, target] of Object.entries(manifest.exports)) {
    if (typeof target === 'string') continue // plain files
    for (const path of Object.values(target).map(path => path.slice(2))) {
      if (!path.includes('*')) t.ok(built.has(path), `${name}: ${path}`)
      else for (const folder of pluginFolders) t.ok(built.has(path.replace('*', folder)), `${name}: ${path.replace('*', folder)}`)
    }
    t.same(Object.keys(target), ['types', 'default'], '"default" is for require() too')
  }
})

t.test('fleet-gateway/plugins has every plugin under its folder\'s name in camel case', async t => {
  const names = pluginFolders.map(folder => folder.replace(/-./g, ([, letter = '']) => letter.toUpperCase()))

  t.same(Object.keys(plugins).sort(), names.sort())
  for (const [name, plugin] of Object.entries(plugins)) {
    const { default: alone } = await import(`../plugins/${name.replace(/[A-Z]/g, letter => `-${letter.toLowerCase()}`)}/index.ts`) as { default: unknown }
    t.equal(plugin, alone, name)
  }
})

t.test('fleet-gateway exports the gateway by name and by default, and every error of the catalogue', async t => {
  const exported = Object.values(index).map(value => (value as { code?: string } | undefined)?.code)

  t.equal(index.default, index.fleetGateway)
  for (const code of index.errorCatalogue.keys()) t.ok(exported.includes(code), code)
})

t.test('what can be imported has no top-level await, so that require() works', async t => {
  const entries = new Set(['src/main.ts']) // the program is run, not imported
  for (const source of sources.filter(source => !entries.has(source))) {
    const file = ts.createSourceFile(source, read(source), ts.ScriptTarget.ES2023)
    const awaits: string[] = []
    const visit = (node: ts.Node): void => {
      if (ts.isFunctionLike(node) || ts.isClassLike(node)) return
      if (ts.isAwaitExpression(node) || (ts.isForOfStatement(node) && node.awaitModifier)) awaits.push(node.getText(file))
      ts.forEachChild(node, visit)
    }
    visit(file)
    if (awaits.length > 0) t.fail(`${source}: ${awaits[0]}`)
  }
  const script = 'console.log(typeof require("fleet-gateway").default, Object.keys(require("fleet-gateway/plugins")).length)'
  const { stdout } = await run(process.execPath, ['-e', script], { cwd: root })
  t.equal(stdout, `function ${pluginFolders.length}\n`)
})

/** The first column's code and what is in the column `licence`, of each row below a heading. */
function licencesIn (document: string, heading: string): Map<string, string> {
  const section = document.split(/^## /m).find(part => part.startsWith(`${heading}\n`)) ?? ''
  const [head = '', , ...rows] = section.split('\n').filter(line => line.startsWith('|'))
  const cellsOf = (line: string) => line.split('|').slice(1, -1).map(cell => cell.trim())
  const column = cellsOf(head).indexOf('licence')
  return new Map(rows.map(cellsOf).map(cells => [cells[0]!.replaceAll('`', ''), cells[column]!]))
}

for (const [heading, packages] of [['Dependencies', manifest.dependencies], ['Development dependencies', manifest.devDependencies]] as const) {
  t.test(`docs/dependencies.md, ${heading}: every package of package.json, with the licence that it states`, async t => {
    const licences = licencesIn(read('docs/dependencies.md'), heading)
    const stated = Object.keys(packages).map(name => [name, (JSON.parse(read(`node_modules/${name}/package.json`)) as Manifest).license])

    t.same([...licences].sort(), stated.sort())
  })
}

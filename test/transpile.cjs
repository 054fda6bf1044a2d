/**
 * TypeScript for tests: what ts-node would make of a file, by TypeScript itself, but once for all test files and runs. Each of some hundred processes would
 * else transpile the whole gateway again, which is half of the time that the tests take. The form is ts-node's: https://typestrong.org/ts-node/docs/transpilers
 */
const { createHash } = require('node:crypto')
const { mkdirSync, readFileSync, renameSync, writeFileSync } = require('node:fs')
const { dirname, join } = require('node:path')
const ts = require('typescript')

/** Beside what tap keeps; whoever removes it makes tests slower once. */
const folder = join(__dirname, '../.tap/transpiled')

/** What `npm run build` makes one module of, and for the same reason: seven hundred take seconds of a processor to load. */
const bundled = join(__dirname, '../src/typebox.ts')
const { version } = require('../node_modules/typebox/package.json')

/** With all that it imports. @param text JavaScript, and where it looks for its imports */
function withImports (text, fileName) {
  const { outputFiles } = require('esbuild').buildSync({ stdin: { contents: text, resolveDir: dirname(fileName) }, bundle: true, write: false, keepNames: true, platform: 'node', format: 'esm', target: 'node20.19', logLevel: 'silent' })
  return outputFiles[0].text
}

exports.create = ({ service: { config } }) => {
  /** All files are ECMAScript modules, as package.json has it. */
  const compilerOptions = { ...config.options, module: ts.ModuleKind.ESNext }
  const common = JSON.stringify([ts.version, version, compilerOptions, readFileSync(__filename, 'utf8')])
  mkdirSync(folder, { recursive: true })

  return {
    transpile (input, { fileName }) {
      const file = join(folder, `${createHash('sha256').update(common).update(fileName).update('\0').update(input).digest('hex')}.json`)
      try {
        return JSON.parse(readFileSync(file, 'utf8'))
      } catch {
        // nobody has needed it yet
      }
      const { outputText: own, sourceMapText, diagnostics } = ts.transpileModule(input, { fileName, compilerOptions, reportDiagnostics: true })
      if (diagnostics.length > 0) return { outputText: own, sourceMapText, diagnostics }
      const outputText = fileName === bundled ? withImports(own, fileName) : own
      const written = `${file}.${process.pid}`
      writeFileSync(written, JSON.stringify({ outputText, sourceMapText }))
      renameSync(written, file) // others may be writing the same
      return { outputText, sourceMapText }
    }
  }
}

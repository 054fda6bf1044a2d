/**
 * The look (neostandard), and who may import whom: each arrow of ARCHITECTURE.md's import diagram is a rule here, so that review does not have
 * to watch them. A file has one list of forbidden imports, the last that matches it, so the lists are composed. Rules that know types are in .oxlintrc.json.
 */
import neostandard, { resolveIgnoresFromGitignore } from 'neostandard'
import { plugin as tsEslint } from 'typescript-eslint'

/** Type imports vanish from the build, so they make no arrow. */
const allowTypeImports = true

const noComposition = (folder, ...files) => ({
  regex: `${folder}/(${files.join('|')})\\.ts$|${folder}/cli/`,
  message: 'What is composed must not know who composes it: take an option or a decorator instead.'
})
const composers = ['gateway', 'config', 'index', 'main']
const noOtherPlugin = depth => ({
  regex: `^${'\\.\\./'.repeat(depth)}(?!\\.\\./|src/)|(^|/)plugins/|^fleet-gateway(/|$)`,
  allowTypeImports,
  message: 'A plugin never imports another plugin at run time: declare its decorator, and bring its types with `import type`.'
})
const noPlugins = {
  regex: '(^|/)plugins/(?![^/]+/options\\.ts$)',
  allowTypeImports,
  message: 'Only src/gateway.ts imports plugins; beside it, only their options.ts.'
}
const noOptions = {
  regex: '(^|/)plugins/[^/]+/options\\.ts$',
  allowTypeImports,
  message: 'A plugin\'s options belong to the plugin and to src/config.ts.'
}
const noServer = {
  regex: '^(fastify(-plugin)?|undici|@fastify/(?!error$).*|node:(http|https|http2|net|tls))$|^\\./(server|problem)\\.ts$',
  allowTypeImports,
  message: 'Configuration is validated without building a server.'
}
const onlyDomain = {
  regex: '^(?!\\./[a-z0-9-]+\\.ts$|\\.\\./(errors|clock)\\.ts$|node:(crypto|net)$)',
  message: 'The domain is plain TypeScript: src/fleet imports src/fleet, errors, clock, node:crypto and node:net only.'
}
// nextTick belongs to the event loop rather than to the process.
const noProcess = { regex: '^(node:)?process$', allowImportNames: ['nextTick'], message: 'Only src/main.ts touches `process`: take what you need as an argument.' }

const onlyPage = { regex: '^\\.\\./(?!\\.\\./\\.\\./src/(?:watched-fleet|figures)\\.ts$)|^node:', allowTypeImports, message: 'The console\'s page runs in browsers: of what the gateway runs it takes types only, by ../wire.ts, and what it shares with `top`.' }
const noPage = { regex: '/page/', message: 'The console\'s page runs in browsers: the gateway serves what was built of it.' }

/** plugins/index.ts lists the plugins for embedders and has no say in anything. */
const onlyPluginFolders = { regex: '^(?!\\./[a-z-]+/index\\.ts$)', message: 'plugins/index.ts passes on the plugins and nothing else.' }

/** The rule that forbids these imports in these files. */
const arrows = (files, ...patterns) => ({
  files,
  rules: { '@typescript-eslint/no-restricted-imports': ['error', { patterns }] }
})

export default [
  ...neostandard({ ts: true, ignores: resolveIgnoresFromGitignore() }),
  {
    files: ['**/*.{ts,tsx}'],
    plugins: { '@typescript-eslint': tsEslint },
    rules: {
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
      '@typescript-eslint/no-explicit-any': 'error',
      // An option schema and the type it stands for share their name; the compiler refuses every other redeclaration.
      '@typescript-eslint/no-redeclare': 'off',
      // `${NAME}` in plain strings is what fleet.yaml understands.
      'no-template-curly-in-string': 'off',
      // `void promise` says that nobody waits for it, `return void leave()` that there is nothing to answer.
      'no-void': 'off'
    }
  },

  // The arrows: main → cli → gateway → plugins → fleet, errors, options, clock; gateway → config → plugins/*/options.ts.
  arrows(['src/*.ts', 'src/cli/**/*.ts'], noPlugins, noProcess),
  arrows(['src/*.ts'], noPlugins, noOptions, { ...noComposition('^\\.', ...composers), allowTypeImports }, noProcess),
  arrows(['src/config.ts'], noPlugins, noComposition('^\\.', ...composers), noServer, noProcess),
  arrows(['src/index.ts'], noPlugins, noProcess),
  arrows(['src/gateway.ts'], noComposition('^\\.', 'index', 'main'), noProcess),
  arrows(['src/main.ts'], noPlugins),
  arrows(['src/fleet/**/*.ts'], onlyDomain),
  arrows(['plugins/index.ts'], onlyPluginFolders),
  arrows(['plugins/*/*.ts'], noOtherPlugin(1), noComposition('/src', ...composers), noProcess),
  arrows(['plugins/*/*/**/*.{ts,tsx}'], noOtherPlugin(2), noComposition('/src', ...composers), noProcess),
  arrows(['plugins/console/*.ts'], noOtherPlugin(1), noComposition('/src', ...composers), noProcess, noPage),
  arrows(['plugins/console/page/**/*.{ts,tsx}'], noOtherPlugin(2), onlyPage),
  arrows(['plugins/*/options.ts'], noOtherPlugin(1), noComposition('/src', ...composers), noServer, noProcess),
  {
    files: ['src/**/*.ts', 'plugins/**/*.ts'],
    ignores: ['src/main.ts'],
    rules: {
      'no-restricted-globals': ['error', { name: 'process', message: noProcess.message }],
      'no-restricted-properties': ['error', { object: 'globalThis', property: 'process', message: noProcess.message }]
    }
  }
]

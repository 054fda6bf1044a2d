/** The edit of `fleet-gateway key` in files of every shape: the one key comes or goes, and every other byte stays. */
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import t from 'tap'
import { withKey, withoutKey, type KeyEntry } from '../../src/cli/key-edit.ts'
import { parseConfig, type FleetConfigInput } from '../../src/config.ts'
import { parseYaml } from '../../src/yaml.ts'
import { runs } from '../helpers/fuzz-runs.ts'

const digest = 'ab'.repeat(32)
const ci: KeyEntry = { id: 'ci', tokenSha256: digest, scopes: ['read', 'proxy'] }
const other = `{id: other, tokenSha256: "${'cd'.repeat(32)}", scopes: [read]}`

const valueOf = (text: string) => parseYaml(text, { TOKEN: 'from-the-environment', SCOPE: 'read' }).value as FleetConfigInput

/** What was put in, if the rest of the text is as it was. */
function addition (before: string, after: string): string {
  let from = 0
  while (from < before.length && before[from] === after[from]) from++
  let to = 0
  while (to < before.length - from && before[before.length - 1 - to] === after[after.length - 1 - to]) to++
  return from + to === before.length ? after.slice(from, after.length - to) : `not an insertion: ${JSON.stringify(after)}`
}

const block = (indentation: string, eol = '\n') => ['- id: ci', `  tokenSha256: "${digest}"`, '  scopes: [read, proxy]'].map(line => `${indentation}${line}`).join(eol)
const flow = `{id: ci, tokenSha256: "${digest}", scopes: [read, proxy]}`

const additions: [name: string, before: string, after: string][] = [
  ['an empty file', '', `auth:\n  keys:\n${block('    ')}\n`],
  ['comments alone', '# nothing yet\n', `# nothing yet\nauth:\n  keys:\n${block('    ')}\n`],
  ['a mark at the begin, and CRLF', '\uFEFFagents: []\r\n', `\uFEFFagents: []\r\nauth:\r\n  keys:\r\n${block('    ', '\r\n')}\r\n`],
  ['no line break at the end', 'agents: [] # none', `agents: [] # none\nauth:\n  keys:\n${block('    ')}`],
  ['empty lines between its parts', 'agents: []\n\nserver: {port: 1}\n', `agents: []\n\nserver: {port: 1}\n\nauth:\n  keys:\n${block('    ')}\n`],
  ['empty lines and no line break at the end', 'agents: []\n\nserver: {port: 1}', `agents: []\n\nserver: {port: 1}\n\nauth:\n  keys:\n${block('    ')}`],
  ['an empty line at the end', 'agents: []\n\n', `agents: []\n\nauth:\n  keys:\n${block('    ')}\n`],
  ['a text with its blank lines at the end', 'server: {port: 1}\n\nagents:\n  - name: a\n    port: 1\n    metadata:\n      about: |+\n        text\n\n', `server: {port: 1}\n\nagents:\n  - name: a\n    port: 1\n    metadata:\n      about: |+\n        text\n\nauth:\n  keys:\n${block('    ')}\n`],
  ['everything indented', '  agents: []\n', `  agents: []\n  auth:\n    keys:\n${block('      ')}\n`],
  ['marks of a document', '%YAML 1.2\n---\nagents: []\n...\n# end\n', `%YAML 1.2\n---\nagents: []\nauth:\n  keys:\n${block('    ')}\n...\n# end\n`],
  ['a document mark and nothing in it', '---\n', `---\nauth:\n  keys:\n${block('    ')}\n`],
  ['JSON', '{"agents": []}\n', `{"agents": [], "auth": {"keys": [{"id": "ci", "tokenSha256": "${digest}", "scopes": ["read", "proxy"]}]}}\n`],
  ['JSON with nothing in it', '{}', `{"auth": {"keys": [{"id": "ci", "tokenSha256": "${digest}", "scopes": ["read", "proxy"]}]}}`],
  ['JSON with auth', '{"auth": {"secret": "${TOKEN}"},\n "agents": []}', `{"auth": {"secret": "\${TOKEN}", "keys": [{"id": "ci", "tokenSha256": "${digest}", "scopes": ["read", "proxy"]}]},\n "agents": []}`],
  ['auth with nothing behind it', 'auth:\nagents: []\n', `auth:\n  keys:\n${block('    ')}\nagents: []\n`],
  ['auth with nothing but comments', 'auth: # who may\n  # secret: …\nagents: []\n', `auth: # who may\n  keys:\n${block('    ')}\n  # secret: …\nagents: []\n`],
  ['auth at the very end', 'agents: []\nauth:', `agents: []\nauth:\n  keys:\n${block('    ')}`],
  ['auth with a secret', 'auth: # who may\n    # the secret\n    secret: ${TOKEN} # from outside\nagents: []\n', `auth: # who may\n    keys:\n${block('      ')}\n    # the secret\n    secret: \${TOKEN} # from outside\nagents: []\n`],
  ['auth with an anchor', 'auth: &auth\n  secret: ${TOKEN}\n', `auth: &auth\n  keys:\n${block('    ')}\n  secret: \${TOKEN}\n`],
  ['auth in braces', 'auth: {secret: "${TOKEN}"} # one line\n', `auth: {secret: "\${TOKEN}", keys: [${flow}]} # one line\n`],
  ['auth in empty braces', 'auth: {}\n', `auth: {keys: [${flow}]}\n`],
  ['keys with nothing behind it', 'auth:\n  secret: ${TOKEN}\n  keys: # none\n', `auth:\n  secret: \${TOKEN}\n  keys: # none\n${block('    ')}\n`],
  ['an empty list', 'auth:\n  secret: ${TOKEN}\n  keys: [ ] # none\n', `auth:\n  secret: \${TOKEN}\n  keys: [${flow} ] # none\n`],
  ['keys in brackets', `auth:\n  keys: [${other}] # one\n`, `auth:\n  keys: [${other}, ${flow}] # one\n`],
  ['keys in brackets over lines, with a last comma', `auth:\n  keys: [\n    ${other}, # the other\n    ]\n`, `auth:\n  keys: [\n    ${other}, ${flow}, # the other\n    ]\n`],
  ['keys one by one', 'auth:\n  keys:\n    # the first\n    - id: a # its name\n      token: ${TOKEN} # from outside\n      # what it may do:\n      scopes: [ read ] # not much\n    # behind it\nagents: []\n', `auth:\n  keys:\n    # the first\n    - id: a # its name\n      token: \${TOKEN} # from outside\n      # what it may do:\n      scopes: [ read ] # not much\n${block('    ')}\n    # behind it\nagents: []\n`],
  ['keys one by one, not indented', 'auth:\n  keys:\n  - id: a\n    token: ${TOKEN}\n    scopes:\n    - read\n', `auth:\n  keys:\n  - id: a\n    token: \${TOKEN}\n    scopes:\n    - read\n${block('  ')}\n`],
  ['keys one by one, without a line break at the end', `auth:\n  keys:\n    - ${other}`, `auth:\n  keys:\n    - ${other}\n${block('    ')}`],
  ['keys one by one, CRLF', `auth:\r\n  keys:\r\n    - ${other}\r\nagents: []\r\n`, `auth:\r\n  keys:\r\n    - ${other}\r\n${block('    ', '\r\n')}\r\nagents: []\r\n`],
  ['anchors and aliases', 'auth:\n  keys:\n    - &first {id: a, token: "${TOKEN}", scopes: &may [read]}\n    - {id: b, token: b-token-in-clear, scopes: *may}\nagents: []\n', `auth:\n  keys:\n    - &first {id: a, token: "\${TOKEN}", scopes: &may [read]}\n    - {id: b, token: b-token-in-clear, scopes: *may}\n${block('    ')}\nagents: []\n`],
  ['a merge key', 'auth:\n  keys:\n    - &base\n      id: a\n      token: a-token-in-clear\n      scopes: [read]\n    - <<: *base\n      id: b\n      token: b-token-in-clear\n', `auth:\n  keys:\n    - &base\n      id: a\n      token: a-token-in-clear\n      scopes: [read]\n    - <<: *base\n      id: b\n      token: b-token-in-clear\n${block('    ')}\n`],
  ['a quoted key', '"auth":\n  \'keys\':\n    - {id: a, token: "${TOKEN}", scopes: [read]}\n', `"auth":\n  'keys':\n    - {id: a, token: "\${TOKEN}", scopes: [read]}\n${block('    ')}\n`]
]

t.test('a key is added, and every other byte stays', async t => {
  for (const [name, before, after] of additions) {
    const edited = withKey(before, ci)
    t.equal(edited, after, name)
    t.match(addition(before, edited), /ci/, `${name}: nothing but an insertion`)
    t.same(valueOf(edited).auth?.keys?.at(-1), ci, name)
    parseConfig(valueOf(edited))
  }
})

t.test('of a key without a value what stands for nothing makes room', async t => {
  t.equal(withKey('auth: null\nagents: []\n', ci), `auth:\n  keys:\n${block('    ')}\nagents: []\n`)
  t.equal(withKey('auth: ~ # nobody\n', ci), `auth: # nobody\n  keys:\n${block('    ')}\n`)
  t.equal(withKey('{"auth": null}', ci), `{"auth": {"keys": [{"id": "ci", "tokenSha256": "${digest}", "scopes": ["read", "proxy"]}]}}`)
})

t.test('agents and limits are written, and texts that YAML would read as something else have quotes', async t => {
  const keys: KeyEntry[] = [
    { ...ci, agents: ['planner', '*'], rateLimit: { perMinute: 60, burst: 10 } },
    ...['123', '1e3', 'true', 'No', 'null', '0x10', 'a.b', '2026-01-01', 'y', '1_000', '.inf'.slice(1)].map(id => ({ ...ci, id, agents: [id], tokenSha256: '1'.repeat(64) }))
  ]
  for (const key of keys) {
    for (const before of ['', '{}', 'auth: {}', `auth:\n  keys:\n    - ${other}\n`]) {
      t.same(valueOf(withKey(before, key)).auth?.keys?.at(-1), key, `${key.id} in ${JSON.stringify(before)}`)
    }
  }
})

const removals: [name: string, before: string, index: number, after: string][] = [
  ['one of several', 'auth:\n  keys:\n    # a\n    - id: a # its name\n      scopes: [read] # may\n      # inside\n      token: a-token-in-clear # end\n    # b\n    - id: b\n      token: ${TOKEN}\n      scopes:\n        - read\n    # c\nagents: []\n', 0, 'auth:\n  keys:\n    # a\n    # b\n    - id: b\n      token: ${TOKEN}\n      scopes:\n        - read\n    # c\nagents: []\n'],
  ['the last of several', 'auth:\n  keys:\n    - {id: a, token: a-token-in-clear, scopes: [read]}\n    - id: b\n      token: ${TOKEN}\n      scopes:\n        - read # only\n    # c\nagents: []\n', 1, 'auth:\n  keys:\n    - {id: a, token: a-token-in-clear, scopes: [read]}\n    # c\nagents: []\n'],
  ['the only one', 'auth:\n  keys: # named\n    - id: a\n      token: a-token-in-clear\n      scopes: [read]\nagents: [] # none', 0, 'auth:\n  keys: [] # named\nagents: [] # none'],
  ['not indented, CRLF', 'auth:\r\n  keys:\r\n  - id: a\r\n    token: a-token-in-clear\r\n    scopes: [read]\r\n  - id: b\r\n    token: b-token-in-clear\r\n    scopes: [read]\r\n', 0, 'auth:\r\n  keys:\r\n  - id: b\r\n    token: b-token-in-clear\r\n    scopes: [read]\r\n'],
  ['at the end without a line break', `auth:\n  keys:\n    - ${other}\n    - id: b\n      token: b-token-in-clear\n      scopes: [read]`, 1, `auth:\n  keys:\n    - ${other}\n`],
  ['the first in brackets', `auth: {keys: [{id: a, token: a-token-in-clear, scopes: [read]}, ${other}]} # one line\n`, 0, `auth: {keys: [${other}]} # one line\n`],
  ['the last in brackets', `auth: {keys: [${other}, {id: a, token: a-token-in-clear, scopes: [read]}]} # one line\n`, 1, `auth: {keys: [${other}]} # one line\n`],
  ['the only one in brackets', `auth: {keys: [ ${other} ]}\n`, 0, 'auth: {keys: [  ]}\n'],
  ['the first in brackets over lines', `auth:\n  keys: [\n    # a\n    {id: a, token: a-token-in-clear, scopes: [read]},\n    # the other\n    ${other}, # it\n    ]\n`, 0, `auth:\n  keys: [\n    # a\n    # the other\n    ${other}, # it\n    ]\n`],
  ['the last in brackets over lines', `auth:\n  keys: [\n    ${other},\n    {id: a, token: a-token-in-clear, scopes: [read]}\n    # end\n    ]\n`, 1, `auth:\n  keys: [\n    ${other}\n    # end\n    ]\n`],
  ['with a last comma', `auth:\n  keys: [\n    ${other},\n    {id: a, token: a-token-in-clear, scopes: [read]}, # a\n    ]\n`, 1, `auth:\n  keys: [\n    ${other},\n     # a\n    ]\n`],
  ['JSON', '{"auth": {"keys": [{"id": "a", "token": "a-token-in-clear", "scopes": ["read"]}]}, "agents": []}', 0, '{"auth": {"keys": []}, "agents": []}'],
  ['with an anchor that nobody needs', `auth:\n  keys: [&a {id: a, token: a-token-in-clear, scopes: [read]}, ${other}]\n`, 0, `auth:\n  keys: [${other}]\n`]
]

t.test('a key is removed, and every other byte stays', async t => {
  for (const [name, before, index, after] of removals) {
    const edited = withoutKey(before, index)
    t.equal(edited, after, name)
    const { auth, ...others } = valueOf(before)
    t.same(valueOf(edited), { ...others, auth: { ...auth, keys: auth!.keys!.filter((_, place) => place !== index) } }, name)
  }
})

t.test('what can\'t be edited safely is left to its owner', async t => {
  const unusual = [
    'auth: *nowhere\n', 'a: &a {keys: []}\nauth: *a\n', 'auth:\n  keys: &k\nagents: []\n', 'k: &k []\nauth:\n  keys: *k\n', 'auth: text\n', 'auth:\n  keys: text\n',
    '? auth\n: secret: ${TOKEN}\n', 'auth: &a\n', 'auth: {keys}\n', '- auth\n', 'auth:\n  ? keys\n  : - id: a\n', '{"auth"}'
  ]
  for (const text of unusual) t.throws(() => withKey(text, ci), { name: 'UnusualFile' }, JSON.stringify(text))
  for (const text of ['', 'auth: {}\n', 'auth:\n  keys: *k\n', 'auth:\n  keys: []\n', 'auth:\n  keys:\n', 'auth:\n  keys: &k\n    - {id: a}\n']) t.throws(() => withoutKey(text, 0), { name: 'UnusualFile' }, JSON.stringify(text))
})

t.test('whatever stands around it: adding and revoking gives the text back, or what is the same', async t => {
  const comment = fc.constantFrom('', ' # why', '\t# "quoted" \'and\' {so} on: x')
  const scalar = fc.constantFrom('a', '"b # no comment"', '\'it\'\'s\'', '${TOKEN}', '"${TOKEN:-x}"', '12', '~', '&x y', '[a, {b: c}]', '{a: [b, c,], }', '|\n      text\n      more', '>-\n      folded', '|+\n      kept\n\n')
  const entry = fc.tuple(fc.constantFrom('one', 'two', 'three'), scalar, comment).map(([name, value, note]) => value.includes('\n') ? `    ${name}: ${value}` : `    ${name}: ${value}${note}`)
  const metadata = fc.uniqueArray(entry, { maxLength: 3, selector: line => line.trim().split(':', 1)[0] })
  const agents = fc.tuple(comment, metadata).map(([note, lines]) => [`agents:${note}`, '- name: a', '  port: 1', ...(lines.length === 0 ? [] : ['  metadata:', ...lines])])
  const auth = fc.constantFrom([], ['auth:'], ['auth: # c'], ['auth: {}'], ['auth:', '   secret: ${TOKEN}  # s'], ['auth:', ' keys:', ' - id: z', '   token: z-token-in-clear', '   scopes: [read]', ' # after'], ['auth: {keys: [', `  ${other} # o`, '  ]}'])
  const between = fc.constantFrom([], [''], ['# between', ''], ['', '', '#'])
  const file = fc.tuple(agents, between, auth, between, fc.boolean(), fc.constantFrom('\n', '\r\n'), fc.boolean())
    .map(([first, gap, second, rest, swapped, eol, isEnded]) => [...(swapped ? [...second, ...gap, ...first] : [...first, ...gap, ...second]), ...rest].join('\n').replaceAll('\n', eol) + (isEnded ? eol : ''))

  fc.assert(fc.property(file, before => {
    const edited = withKey(before, ci)
    const { auth: had, ...others } = valueOf(before)
    const value = valueOf(edited)
    const keys = had?.keys ?? []
    if (!isDeepStrictEqual(value, { ...others, auth: { ...had, keys: [...keys, ci] } })) return false
    if (addition(before, edited).startsWith('not an insertion')) return false
    const back = withoutKey(edited, keys.length)
    return isDeepStrictEqual(valueOf(back), { ...others, auth: { ...had, keys } })
  }), runs(1_000))
})

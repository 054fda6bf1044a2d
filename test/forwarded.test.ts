/** src/forwarded.ts: what the nearest proxy said stands at the end, and nothing before it changes that. */
import fc from 'fast-check'
import t from 'tap'
import { runSeed } from './helpers/seeded.ts'
import { readForwarded } from '../src/forwarded.ts'

const element = fc.record({
  node: fc.constantFrom('192.0.2.7', '"[2001:db8::1]:80"', '_hidden', '"a\\"b, c;d=\\\\"'),
  rest: fc.constantFrom('', ';proto=https', ' ; host="pub.example:80"', ';', ';by=_x;ext="\\\\"')
}).map(({ node, rest }) => `for=${node}${rest}`)
const piece = fc.constantFrom('"', '\\', ',', ';', '=', 'for=', 'host=evil', ' ', '\t', 'x', '"a"', '\xff', '[::1]')
const byClient = fc.oneof(fc.string({ maxLength: 40 }), fc.array(piece, { maxLength: 20 }).map(pieces => pieces.join('')))

t.test('whatever a client says before, the nearest proxy is read as if it had said nothing', async t => {
  fc.assert(fc.property(byClient, element, (before, own) => {
    const [alone] = readForwarded({ forwarded: own }).elements
    const { elements, text } = readForwarded({ forwarded: `${before}, ${own}` })
    return alone?.for !== undefined && JSON.stringify(elements[0]) === JSON.stringify(alone) && text.endsWith(own.trimEnd()) && JSON.stringify(readForwarded({ forwarded: text }).elements) === JSON.stringify(elements)
  }), { seed: runSeed, numRuns: 2_000 })
  t.pass('2,000 fields')
})

t.test('a field as long as a head is read', { timeout: 10_000 }, async t => {
  for (const piece of ['"', '\\"', '\\', ',', ';', 'a=b;', 'a=b,', '="', 'for="\\', ' ']) {
    const forwarded = `${piece.repeat(32_000 / piece.length)}, for=192.0.2.7`
    t.match(readForwarded({ forwarded }).elements[0], { for: '192.0.2.7' }, piece)
  }
})

import t from 'tap'
import fc from 'fast-check'
import { AnswerHeads } from '../../plugins/proxy/answer-heads.ts'

const final = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
const hints = 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'
const goOn = 'HTTP/1.1 100 Continue\r\n\r\n'

/** What the parser sees of these pieces. */
function seen (heads: AnswerHeads, pieces: readonly string[]): string {
  heads.expect()
  return pieces.map(piece => heads.pass(Buffer.from(piece, 'latin1'))?.toString('latin1') ?? '').join('')
}

t.test('100s are taken out wherever the bytes are split, and nothing else is', async t => {
  const answers = [[final, final], [goOn + final, final], [goOn + goOn + hints + goOn + final, hints + final], ['garbage', 'garbage'], ['HTTP/1.0 200 OK\r\n\r\n100', 'HTTP/1.0 200 OK\r\n\r\n100'], ['HTTP/1.1 101 X\r\n\r\n', 'HTTP/1.1 101 X\r\n\r\n']] as const
  fc.assert(fc.property(fc.constantFrom(...answers), fc.array(fc.nat(200)), ([bytes, expected], cuts) => {
    const places = [0, ...cuts.filter(cut => cut < bytes.length).sort((a, b) => a - b), bytes.length]
    const pieces = places.slice(1).map((end, index) => bytes.slice(places[index], end))

    return seen(new AnswerHeads(), pieces) === expected
  }))
  t.pass('for all of them')
})

t.test('the version is that of the last head, and a body is not looked at', async t => {
  const heads = new AnswerHeads()

  t.equal(seen(heads, ['HTTP/1.0 200 OK\r\n\r\n', goOn]), `HTTP/1.0 200 OK\r\n\r\n${goOn}`)
  t.equal(heads.version, '1.0')
})

t.test('an answer has begun with its first byte, also when that is held back', async t => {
  const heads = new AnswerHeads()
  heads.expect()
  t.equal(heads.began, false)

  t.equal(heads.pass(Buffer.from('HT')), null)

  t.equal(heads.began, true)
  heads.expect()
  t.equal(heads.began, false, 'for the next request')
})

/**
 * A name server of a test's own, over UDP on loopback: it says what it is told to say (RFC 1035, RFC 2782), and remembers what it was asked.
 */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import type { Test } from 'tap'

type RecordType = 'A' | 'AAAA' | 'SRV'

interface SrvRecord { readonly priority?: number, readonly weight?: number, readonly port: number, readonly target: string }

/** What is said of one type of records of a name: the records, or that there is a name without such, none, or trouble; or nothing at all. */
type Said = readonly string[] | readonly SrvRecord[] | 'empty' | 'NXDOMAIN' | 'SERVFAIL' | 'REFUSED' | 'silence'

export interface DnsServer {
  /** For `resolvers`. */
  readonly address: string
  /** `NAME TYPE` of each question, in order. */
  readonly asked: string[]
  /** From now on; what nobody said anything of is NXDOMAIN. @param ttl seconds */
  says (name: string, type: RecordType, said: Said, ttl?: number): void
}

const typeNumbers = { A: 1, AAAA: 28, SRV: 33 } as const
const typeNames = new Map<number, RecordType>([[1, 'A'], [28, 'AAAA'], [33, 'SRV']])
const codes = { NXDOMAIN: 3, SERVFAIL: 2, REFUSED: 5 } as const

/** Listens on a free port of 127.0.0.1. */
export async function dnsServer (t: Test): Promise<DnsServer> {
  const said = new Map<string, { said: Said, ttl: number }>()
  const asked: string[] = []
  const socket = createSocket('udp4')
  socket.on('message', (question, { port, address }) => {
    const { name, type } = questionOf(question)
    asked.push(`${name} ${type}`)
    const { said: what, ttl } = said.get(`${name} ${type}`) ?? { said: 'NXDOMAIN', ttl: 0 }
    if (what !== 'silence') socket.send(answerTo(question, what, type, ttl), port, address)
  })
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  t.teardown(async () => {
    socket.close()
    await once(socket, 'close')
  })
  return {
    address: `127.0.0.1:${socket.address().port}`,
    asked,
    says (name, type, what, ttl = 5) { said.set(`${name} ${type}`, { said: what, ttl }) }
  }
}

function questionOf (message: Buffer): { name: string, type: RecordType } {
  const labels = []
  let at = 12
  for (let length = message[at]!; length > 0; length = message[at]!) {
    labels.push(message.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  return { name: labels.join('.').toLowerCase(), type: typeNames.get(message.readUInt16BE(at + 1))! }
}

function answerTo (question: Buffer, said: Exclude<Said, 'silence'>, type: RecordType, ttl: number): Buffer {
  const records = typeof said === 'string' ? [] : said
  const end = question.indexOf(0, 12) + 5
  const head = Buffer.alloc(12)
  question.copy(head, 0, 0, 2)
  head.writeUInt16BE(0x8180 | (typeof said === 'string' && said !== 'empty' ? codes[said] : 0), 2)
  head.writeUInt16BE(1, 4)
  head.writeUInt16BE(records.length, 6)
  return Buffer.concat([head, question.subarray(12, end), ...records.map(record => recordOf(record, type, ttl))])
}

function recordOf (record: string | SrvRecord, type: RecordType, ttl: number): Buffer {
  const data = typeof record === 'string' ? addressBytes(record) : serviceBytes(record)
  const head = Buffer.alloc(12)
  head.writeUInt16BE(0xc00c, 0) // the name of the question
  head.writeUInt16BE(typeNumbers[type], 2)
  head.writeUInt16BE(1, 4)
  head.writeUInt32BE(ttl, 6)
  head.writeUInt16BE(data.length, 10)
  return Buffer.concat([head, data])
}

function addressBytes (address: string): Buffer {
  if (!address.includes(':')) return Buffer.from(address.split('.').map(Number))
  const [before = '', after = ''] = address.split('::')
  const groups = (text: string) => text === '' ? [] : text.split(':').map(group => parseInt(group, 16))
  const [head, tail] = [groups(before), groups(after)]
  const bytes = Buffer.alloc(16)
  for (const [index, group] of head.entries()) bytes.writeUInt16BE(group, index * 2)
  for (const [index, group] of tail.entries()) bytes.writeUInt16BE(group, 16 - (tail.length - index) * 2)
  return bytes
}

function serviceBytes ({ priority = 0, weight = 0, port, target }: SrvRecord): Buffer {
  const head = Buffer.alloc(6)
  head.writeUInt16BE(priority, 0)
  head.writeUInt16BE(weight, 2)
  head.writeUInt16BE(port, 4)
  const labels = target.split('.').filter(label => label !== '').flatMap(label => [Buffer.from([label.length]), Buffer.from(label, 'latin1')])
  return Buffer.concat([head, ...labels, Buffer.from([0])])
}

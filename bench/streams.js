/**
 * Holds event streams open and counts what comes: a process of its own, over raw sockets. Argument: the task as JSON. Says `{ open }` to its
 * parent when every stream has had its first event, answers each message with `{ events }` so far, and `{ failure }` as soon as one breaks.
 */
import { connect } from 'node:net'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { createResponseReader } from './response-reader.js'

/** @type {{ port: number, streams: number, paths: string[], headers: Record<string, string>, eventBytes: number }} */
const { port, streams, paths: [path], headers, eventBytes } = JSON.parse(process.argv[2])

const head = [`GET ${path} HTTP/1.1`, 'Host: 127.0.0.1', 'Accept: text/event-stream', ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`), '', ''].join('\r\n')

let bytes = 0
let begun = 0
let toBegin
const allBegun = new Promise(resolve => { toBegin = resolve })

function fail (failure) {
  process.send({ failure }, () => process.exit(1))
}

function open () {
  const socket = connect({ port, host: '127.0.0.1' }, () => socket.write(head))
  let first = true
  const reader = createResponseReader({
    head: status => { if (status !== 200) fail(`a stream was answered ${status}`) },
    body (count) {
      bytes += count
      if (!first) return
      first = false
      if (++begun === streams) toBegin()
    },
    end: () => fail('a stream ended')
  })
  socket.on('data', reader.read)
  socket.on('error', error => fail(`a stream broke: ${error.message}`))
  socket.on('close', () => fail('a stream was closed'))
  return once(socket, 'connect')
}

process.on('message', () => process.send({ events: Math.floor(bytes / eventBytes) }))
process.on('disconnect', () => process.exit(0))
process.on('SIGTERM', () => process.exit(0))

// Spread over a second, so that their events are, too.
for (let index = 0; index < streams; index++) {
  await open()
  await delay(1)
}
await Promise.race([allBegun, delay(30_000).then(() => fail(`only ${begun} of ${streams} streams began`))])
process.send({ open: streams })

/**
 * A process of agents for the soak: one HTTP server for each `name=port` of the arguments. Writes down each request whose head arrived, at
 * once, so that a SIGKILL takes nothing away; who asked twice for something that must happen once is found there.
 * Arguments: file of the record, seed, name=port…
 */
import { openSync, writeSync } from 'node:fs'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { WebSocketServer } from 'ws'
import { createComparison, pieces } from './pattern.js'
import { randomFrom } from './random.js'

const [recordFile, seed, ...places] = process.argv.slice(2)
const record = openSync(recordFile, 'a')
const random = randomFrom(Number(seed))
const servers = []

async function answer (name, request, response) {
  const id = request.headers['x-soak-id'] ?? ''
  if (id !== '') writeSync(record, `${id} ${request.method} ${name}\n`)
  request.on('error', () => {})
  response.on('error', () => {})
  const { pathname, searchParams } = new URL(request.url, 'http://agent')
  const number = key => Number(searchParams.get(key) ?? 0)
  // One instance of an agent may be told to fail, while the others serve the same request.
  if (searchParams.get('failing') === name) {
    if (number('status') === 0) return request.socket.destroy()
    response.writeHead(number('status'), { 'x-soak-instance': name }).end('told to fail')
    return request.resume()
  }
  if (pathname === '/events') return sendEvents(name, id, response, number('every'))
  if (searchParams.has('early')) { // answers before the body is here
    response.writeHead(200, { 'x-soak-id': id, 'x-soak-instance': name }).end()
    return request.resume()
  }
  const comparison = createComparison(id)
  try {
    const slow = number('slow')
    for await (const chunk of request) {
      comparison.take(chunk)
      if (slow > 0) await pause(slow)
    }
  } catch {
    return // the client went away
  }
  if (number('delay') > 0) await pause(number('delay'))
  const bytes = number('bytes')
  response.setHeader('x-soak-id', id)
  response.setHeader('x-soak-instance', name)
  response.setHeader('x-soak-received', `${comparison.seen.bytes} ${comparison.seen.equal}`)
  if (!searchParams.has('chunked')) response.setHeader('content-length', bytes)
  response.flushHeaders()
  for (const piece of pieces(id, bytes)) {
    if (response.destroyed) return
    if (!response.write(piece)) await writable(response)
    if (number('gap') > 0) await pause(number('gap'))
  }
  response.end()
}

/** Resolves when more can be written, or nothing ever again. */
const writable = response => new Promise(resolve => {
  const go = () => {
    response.off('drain', go).off('close', go)
    resolve()
  }
  response.on('drain', go).on('close', go)
})

function sendEvents (name, id, response, everyMs) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'x-soak-id': id, 'x-soak-instance': name })
  let count = 0
  const send = () => response.write(`id: ${count}\ndata: ${id} ${count++} ${name}\n\n`)
  send()
  const timer = setInterval(send, everyMs)
  response.on('close', () => clearInterval(timer))
}

function listen (name, port) {
  const server = createServer((request, response) => { answer(name, request, response) })
  server.keepAliveTimeout = 2_500
  const rooms = new WebSocketServer({ server, maxPayload: 16 * 1024 * 1024 })
  rooms.on('connection', (socket, request) => {
    socket.on('error', () => {})
    socket.send(`hello ${request.headers['x-soak-id']} ${name}`)
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
  })
  // Closes connections just when they might be used again.
  if (name.startsWith('stale')) {
    server.on('request', (_request, response) => response.on('finish', () => {
      const { socket } = response
      if (socket && random.chance(0.3)) setTimeout(() => { if (socket._httpMessage == null) socket.destroy() }, random.integer(0, 6))
    }))
  }
  server.on('error', () => setTimeout(() => server.listen(port, '127.0.0.1'), 50)) // something else has the port for a moment
  servers.push(server)
  server.listen(port, '127.0.0.1')
  return once(server, 'listening')
}

// A proper end: what is in flight finishes, streams do not.
process.on('SIGTERM', () => {
  for (const server of servers) server.close()
  const end = () => process.exit(0)
  setTimeout(end, 400)
  Promise.all(servers.map(server => once(server, 'close'))).then(end)
})
process.on('disconnect', () => process.exit(0))

await Promise.all(places.map(place => {
  const [name, port] = place.split('=')
  return listen(name, Number(port))
}))
process.send?.('ready')

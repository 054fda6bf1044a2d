/**
 * An upstream on Node: the same answers as upstream/nginx.conf, and event streams. Listens on two ports, as two instances, and prints them.
 */
import { createServer } from 'node:http'
import { once } from 'node:events'
import { eventBytes, largeBytes, small } from './answers.js'

const large = Buffer.alloc(largeBytes, 'x')
const jsonHead = { 'content-type': 'application/json', 'content-length': small.length }
const event = `data: ${'x'.repeat(eventBytes - 'data: \n\n'.length)}\n\n`

const answers = {
  '/small': (request, response) => response.writeHead(200, jsonHead).end(small),
  '/large': (request, response) => response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': large.length }).end(large),
  '/take': (request, response) => {
    request.on('end', () => response.writeHead(200, jsonHead).end(small))
    request.resume()
  },
  '/events': (request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
    response.write(event)
    const timer = setInterval(() => response.write(event), 1_000)
    response.on('close', () => clearInterval(timer))
  }
}

for (let instance = 0; instance < 2; instance++) {
  const server = createServer({ keepAliveTimeout: 3_600_000, requestTimeout: 0 }, (request, response) => {
    const answer = answers[request.url.split('?')[0]] // fast-gateway adds a `?`
    if (answer === undefined) response.writeHead(404).end()
    else answer(request, response)
  })
  server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 })
  await once(server, 'listening')
  console.log(`port ${server.address().port}`)
}
console.log('ready')

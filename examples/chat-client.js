#!/usr/bin/env node
/**
 * A small WebSocket client for the chat agent, through the gateway or straight to the agent:
 *
 *   node examples/chat-client.js URL [TOKEN]              says each line you type, prints what everybody says
 *   node examples/chat-client.js URL TOKEN 'a message'    says that, prints the first answer and leaves
 */
import { randomBytes } from 'node:crypto'
import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { createInterface } from 'node:readline'
import { acceptKey, Connection } from './agents/websocket.js'

const [address, token, message] = process.argv.slice(2)
const url = URL.canParse(address) ? new URL(address.replace(/^ws/, 'http')) : undefined
if (!/^https?:$/.test(url?.protocol)) {
  console.error('usage: node examples/chat-client.js URL [TOKEN] [MESSAGE]\n  URL: ws://127.0.0.1:9001/api/chat/ws')
  process.exit(2)
}

const key = randomBytes(16).toString('base64')
const request = (url.protocol === 'https:' ? httpsRequest : httpRequest)(url, {
  headers: {
    connection: 'Upgrade',
    upgrade: 'websocket',
    'sec-websocket-version': '13',
    'sec-websocket-key': key,
    ...(token !== undefined && token !== '' && { authorization: `Bearer ${token}` })
  }
})

request.on('error', error => fail(error.message))
request.on('response', response => {
  response.resume()
  fail(`refused: ${response.statusCode} ${response.statusMessage}`)
})
request.on('upgrade', (response, socket, head) => {
  if (response.headers['sec-websocket-accept'] !== acceptKey(key)) return fail('that is not a WebSocket server')
  const room = new Connection(socket, head, { isServer: false })
  room.on('message', (data, isBinary) => {
    console.log(isBinary ? `(${data.length} bytes)` : data.toString())
    if (message !== undefined) room.close()
  })
  room.on('close', (code, reason) => {
    if (code !== 1000) console.error(`closed: ${code} ${reason}`)
    process.exit(code === 1000 || code === 1001 ? 0 : 1)
  })
  if (message !== undefined) return room.send(message)
  const lines = createInterface({ input: process.stdin })
  lines.on('line', line => room.send(line))
  lines.on('close', () => room.close())
})
request.end()

function fail (why) {
  console.error(why)
  process.exit(1)
}

/**
 * An agent that is a chat room: what one person says over its WebSocket is sent to everybody in the room, the speaker included.
 *
 *   GET /ws (upgrade)    GET / (what this is)    GET /people (how many are here)
 */
import { sendJson, serve } from './serve.js'
import { accept, refuse } from './websocket.js'

/** Shorter than what proxies on the way allow a silent connection. */
const pingIntervalMs = 30_000

/** Everybody in the room. */
const people = new Set()

const server = serve({
  name: 'chat-agent',
  defaultPort: 8504,
  onStop: () => { for (const person of people) person.close(1001, 'the room closes') },
  routes: {
    'GET /' ({ response }) {
      sendJson(response, 200, { agent: 'chat', websocket: '/ws', people: people.size, about: 'What you say is sent to everybody in the room.' })
    },
    'GET /people' ({ response }) {
      sendJson(response, 200, { people: people.size })
    },
    'GET /ws' ({ response }) {
      sendJson(response, 426, { error: 'this is a WebSocket: upgrade' }, { connection: 'upgrade', upgrade: 'websocket' })
    }
  }
})

server.on('upgrade', (request, socket, head) => {
  if (!server.listening) return refuse(socket, '503 Service Unavailable')
  if (request.url.split('?', 1)[0] !== '/ws') return refuse(socket, '404 Not Found')
  const person = accept(request, socket, head)
  if (person === undefined) return

  people.add(person)
  person.on('message', (data, isBinary) => {
    for (const listener of people) listener.send(isBinary ? data : data.toString())
  })
  person.on('close', () => people.delete(person))
})

setInterval(() => {
  for (const person of people) person.ping()
}, pingIntervalMs).unref()

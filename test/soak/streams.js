/** Parts of the soak that stay: event streams and WebSockets. One that breaks must have had a reason: its instance was down. */
import { request as httpRequest } from 'node:http'
import { once } from 'node:events'
import { WebSocket } from 'ws'
import { mortalOf } from './fleet.js'
import { pieces } from './pattern.js'

const agents = ['steady', 'steady', 'pool', 'alpha', 'beta', 'gamma']

/** How long a first event may take when the machine is busy. */
const patienceMs = 10_000

/** An event stream for a while: every event once, in order. */
export async function eventStreams (soak) {
  const { random, ledger, fleet, gateway } = soak
  while (!soak.over()) {
    const agent = random.pick(agents)
    const id = ledger.id('events')
    const stays = random.integer(500, soak.longestStreamMs)
    const outgoing = httpRequest({ port: gateway.port, host: '127.0.0.1', path: `/api/${agent}/events?every=${random.integer(10, 200)}`, headers: { 'x-soak-id': id }, agent: false })
    let next = 0
    let ending = ''
    let instance = ''
    let text = ''
    let disordered = false
    let came
    const first = Promise.race([new Promise(resolve => { came = resolve }), soak.pause(patienceMs)])
    const begun = performance.now()
    const over = new Promise(resolve => {
      outgoing.on('error', error => { ending ||= error.code; resolve() })
      outgoing.on('response', response => {
        instance = response.headers['x-soak-instance'] ?? ''
        if (response.statusCode !== 200) ending ||= `status ${response.statusCode}`
        response.on('data', chunk => {
          came()
          text += chunk
          for (let end = text.indexOf('\n\n'); end !== -1; end = text.indexOf('\n\n')) {
            const [, , name, count] = /^id: (\d+)\ndata: (\S+) (\d+)/.exec(text.slice(0, end)) ?? []
            if (name !== id || Number(count) !== next++) disordered = true
            text = text.slice(end + 2)
          }
        })
        response.on('error', error => { ending ||= error.code })
        response.on('close', () => { ending ||= 'closed'; resolve() })
      })
    })
    outgoing.end()
    await Promise.race([over, first])
    if (ending === '') await Promise.race([over, soak.pause(stays)])
    ledger.count('event streams')
    if (disordered) ledger.fault('foreign', `${id}: an event is missing, twice, or another's`)
    if (ending !== '' && !fleet.wasDown(mortalOf[agent], begun, instance)) ledger.fault('broken', `${id} of ${agent} (${instance}) after ${next} events: ${ending}`)
    else if (ending === '' && next === 0 && instance === '') ledger.fault('broken', `${id} of ${agent}: nothing came in ${patienceMs} ms`)
    ending = 'by us'
    outgoing.destroy()
    await over
  }
}

/** A WebSocket for a while: what is sent comes back, in order, whatever its size. */
export async function webSockets (soak) {
  const { random, ledger, fleet, gateway } = soak
  while (!soak.over()) {
    const agent = random.pick(agents)
    const id = ledger.id('socket')
    const begun = performance.now()
    const until = begun + random.integer(500, soak.longestStreamMs)
    const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/api/${agent}/room`, { headers: { 'x-soak-id': id } })
    let ending = ''
    let instance = ''
    socket.on('error', error => { ending ||= error.message })
    const closed = once(socket, 'close').then(([code]) => { ending ||= `close code ${code}` }, () => {})
    const nextMessage = () => Promise.race([once(socket, 'message').then(([data]) => data), closed])
    const hello = await nextMessage()
    if (hello !== undefined) {
      const [, name, at] = String(hello).split(' ')
      instance = at
      if (name !== id) ledger.fault('foreign', `${id}: a WebSocket of ${name}`)
      while (performance.now() < until && !soak.over() && socket.readyState === WebSocket.OPEN) {
        const bytes = random.chance(0.05) ? random.integer(100_000, 1_000_000) : random.integer(0, 2_000)
        const message = Buffer.concat([...pieces(id, bytes)])
        const echoed = nextMessage()
        socket.send(message)
        const got = await echoed
        if (got === undefined) break
        ledger.count('WebSocket messages')
        if (!message.equals(got)) ledger.fault('foreign', `${id}: another message of ${got.length} instead of ${bytes} bytes`)
        await soak.pause(random.integer(1, 100))
      }
    }
    ledger.count('WebSockets')
    if (ending !== '' && !fleet.wasDown(mortalOf[agent], begun, instance)) ledger.fault('broken', `${id} of ${agent} (${instance}): ${ending}`)
    const byUs = ending === ''
    ending ||= 'by us'
    if (byUs && random.chance(0.7)) socket.close(1000)
    else socket.terminate()
    await closed
    await soak.pause(random.integer(0, 100))
  }
}

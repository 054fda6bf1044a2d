/** What answers is no gateway, or one that means harm: the client commands end in a line, and the terminal gets no orders. */
import t from 'tap'
import type { ServerResponse } from 'node:http'
import { GatewayClient } from '../../src/cli/client.ts'
import { eventsIn } from '../../src/cli/event-stream.ts'
import { onlyColours, plain } from '../../src/cli/io.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { runCommand } from '../helpers/run-command.ts'

/** Colour, a title, a cleared screen, the same with 8-bit codes, backspaces, a second line, a line that reads backwards. */
const orders = '\u001b[31mX\u001b]0;title\u0007\u001b[2J\u009b2J\u009d0;title\u009c\b\b\u007f\rok    all\nok    forged\u2028\u202etxt'

/** Nothing of this may be written to a terminal. */
// eslint-disable-next-line no-control-regex
const raw = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u202e]/

const clientCommands = [['agents'], ['agents', 'a'], ['routes'], ['health'], ['stats'], ['logs'], ['test'], ['register', 'a', '80'], ['deregister', 'a']]

const instance = { id: 'abc', host: '127.0.0.1', port: 1, protocol: 'http', healthy: true, state: 'up', weight: 1, source: 'file', lease: null, in_flight: 0 }
const agent = { status: 'healthy', instances: [instance], friendly_names: ['b'], metadata: {}, in_flight: 0 }

/** Answers as a gateway would, with `text` wherever a gateway's answer may have text of its own. */
function answersWith (text: string): (method: string, path: string) => unknown {
  const bad = { ...instance, id: text, host: text, protocol: text, state: text, source: text, lease: { ttl_seconds: 1, expires_at: text } }
  const one = { ...agent, status: text, instances: [bad], metadata: { [text]: text, nested: { [text]: [text] } } }
  return (method, path) => {
    if (method === 'DELETE') return { message: text, note: text }
    switch (path) {
      case '/': return { routes: [{ path: text, methods: text, about: text }] }
      case '/agents': return { a: one }
      case '/agents/a': return one
      case '/health': return { status: text, gateway: 'ok', uptime_seconds: 1, services: { a: { healthy: false, healthy_instances: 0, total_instances: 1, instances: [bad] } } }
      case '/stats': return { total_requests: 1, total_proxied: 1, total_errors: 1, in_flight: 1, uptime_seconds: 1, config: { ok: false, error: text }, agents: {} }
      case '/audit': return { entries: [{ id: text, time: text, method: text, path: text, agent: text, instance: text, attempts: 1, status: 200, latency_ms: 1, ending: text, code: text }] }
      case '/registry/register': return { message: text, name: text, instance: bad, lease: { expires_at: text } }
    }
    return { ok: false, outcome: text, status: null, cause: `ERR_SSL${text}`, path: text, latency_ms: 1 }
  }
}

function json (response: ServerResponse, body: unknown, status = 200): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(typeof body === 'string' ? body : JSON.stringify(body))
}

/** Runs a command on a terminal without colour. */
function command (...args: string[]) {
  return runCommand(args, { isTTY: true, env: { NO_COLOR: '1', FLEET_SECRET: 'fleet-secret-token' } })
}

t.test('whatever a gateway puts into its answers, the terminal gets text, and a field is a line', async t => {
  const answer = answersWith(orders)
  const { origin } = await fakeAgent(t, (request, response) => json(response, answer(request.method!, request.url!)))

  for (const args of clientCommands) {
    const { stdout, stderr } = await command(...args, '--url', origin)
    t.match(stdout, 'ok    all ok    forged', args.join(' '))
    t.notMatch(stdout + stderr, raw)
    t.notMatch(stdout + stderr, /^ok {4}forged|TypeError|\n +at /m)
  }
})

t.test('the same in an event stream; what is no gateway\'s ends it', async t => {
  const entry = { id: orders, time: orders, method: orders, path: orders, agent: orders, instance: orders, attempts: 1, status: 200, latency_ms: 1, code: orders }
  for (const data of [JSON.stringify({ ...entry, attempts: 'x' }), 'null', '[]', '{', '', 'x'.repeat(2 * 1024 * 1024)]) {
    const { origin } = await fakeAgent(t, (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(`event: ${orders}\n\nevent: dropped\ndata: {"count":"x"}\n\nevent: request\nid: ${orders.replaceAll('\n', '')}\ndata: ${JSON.stringify(entry)}\n\nevent: request\ndata: ${data}${data.startsWith('x') ? '' : '\n\n'}`)
    })
    const { code, stdout, stderr } = await command('logs', '-f', '--url', origin)
    t.equal(code, 1)
    t.match(stdout, /ok {4}all ok {4}forged/)
    t.notMatch(stdout + stderr, raw)
    t.match(stderr, 'is no Fleet Gateway')
  }
})

t.test('as JSON everything is there, escaped', async t => {
  const answer = answersWith(orders)
  const { origin } = await fakeAgent(t, (request, response) => json(response, answer(request.method!, request.url!)))

  for (const args of clientCommands) {
    const { stdout } = await command(...args, '--json', '--url', origin)
    t.notMatch(stdout, raw, args.join(' '))
    const [first] = args[0] === 'test' ? [] : [JSON.stringify(JSON.parse(stdout))]
    if (first !== undefined) t.match(first, JSON.stringify(orders), args.join(' '))
  }
})

t.test('so do refusals', async t => {
  const refusal = (code: string, errors: unknown[]) => ({ code, title: orders, detail: orders, errors, nearest: [orders] })
  const field = { path: orders, message: orders }
  for (const problem of [refusal('FLEET_X', []), refusal('FLEET_X', [field, field]), refusal('FLEET_FORBIDDEN', []), refusal('FLEET_UNAUTHENTICATED', [])]) {
    const { origin } = await fakeAgent(t, (_request, response) => json(response, problem, 400))
    for (const args of clientCommands) {
      const { code, stdout, stderr } = await command(...args, '--url', origin)
      t.equal(code, 1)
      t.notMatch(stdout + stderr, raw, args.join(' '))
      t.notMatch(stderr, /^ok {4}forged/m)
    }
  }
})

t.test('an answer of another shape is no gateway\'s', async t => {
  const deep = `{"a":${'['.repeat(5_000)}${']'.repeat(5_000)}}`
  const shapes = [
    { a: null }, { a: {} }, { a: [] }, { a: { ...agent, status: { toString: 1 } } }, { a: { ...agent, instances: [null] } },
    { a: { ...agent, instances: [{ ...instance, id: { toString: 1 } }] } }, { a: { ...agent, friendly_names: [5] } }, { a: { ...agent, metadata: null } },
    { [orders]: agent }, { '../x': agent }, `{"__proto__":${JSON.stringify(agent)}}`, deep,
    { status: 'healthy', services: null }, { status: 'healthy', gateway: 'ok', uptime_seconds: 'x', services: {} },
    { routes: null }, { routes: [null] }, { total_requests: 1 }, { message: {} }, { message: 'ok' }, { ok: true }
  ]
  for (const status of [200, 400]) {
    for (const shape of shapes) {
      const { origin } = await fakeAgent(t, (_request, response) => json(response, shape, status))
      for (const args of clientCommands.flatMap(args => [args, [...args, '--json']])) {
        const isGood = status === 200 && args[0] === 'deregister' && (shape as { message?: unknown }).message === 'ok'
        const { code, stdout, stderr } = await command(...args, '--url', origin)
        t.equal(code, isGood ? 0 : 1, `${args.join(' ')} ${status} ${JSON.stringify(shape).slice(0, 80)}`)
        t.notMatch(stdout + stderr, /TypeError|RangeError|\n +at |NaN/)
        if (!isGood) t.match(stdout + stderr, 'is no Fleet Gateway')
      }
    }
  }
})

t.test('a status that only a newer gateway knows is shown as it is', async t => {
  const { origin } = await fakeAgent(t, (_request, response) => json(response, { a: { ...agent, status: 'constructor', instances: [{ ...instance, state: 'toString', more: 1 }] } }))

  t.match(await command('agents', '--url', origin), { code: 0, stdout: /\na +b +constructor +1 of 1 +0\n$/ })
})

t.test('where an id leads is not for who sends it to say', async t => {
  const asked: string[] = []
  const { origin } = await fakeAgent(t, (request, response) => {
    asked.push(request.url!)
    json(response, request.url === '/agents' ? { a: { ...agent, instances: [{ ...instance, id: '../../../evil?x=' }] } } : answersWith('x')(request.method!, request.url!))
  })

  await command('test', '--url', origin)

  t.match(asked.at(-1), '/registry/a/instances/..%2F..%2F..%2Fevil%3Fx%3D/probe')
})

t.test('an answer that does not end, by its length or by its time, is given up', async t => {
  const chatty = await fakeAgent(t, (_request, response) => {
    const more = () => { while (!response.destroyed && response.write(Buffer.alloc(65_536, ' '))); }
    response.on('drain', more)
    more()
  })
  const slow = await fakeAgent(t, (_request, response) => {
    response.write('{')
    const drip = setInterval(() => response.write(' '), 10)
    response.once('close', () => clearInterval(drip))
  })
  const early = await fakeAgent(t, (_request, response) => {
    const hints = setInterval(() => response.writeEarlyHints({ link: '</a>; rel=preload' }), 10)
    response.once('close', () => clearInterval(hints))
  })
  const ask = async (url: string, limits: { wholeMs: number, bytes: number }) => {
    const client = new GatewayClient({ url, urlFrom: '--url', token: undefined }, 'fleet-gateway', { headMs: 60_000, ...limits })
    t.teardown(() => client.close())
    await client.agents()
  }

  await t.rejects(ask(chatty.origin, { wholeMs: 60_000, bytes: 1_000_000 }), { message: /is no Fleet Gateway, to go by an answer of more than 1000000 bytes/, exitCode: 1 })
  await t.rejects(ask(slow.origin, { wholeMs: 200, bytes: 1_000_000 }), { message: /does not finish its answer within 0\.2 s/, exitCode: 1 })
  await t.rejects(ask(early.origin, { wholeMs: 200, bytes: 1_000_000 }), { message: /does not finish its answer within 0\.2 s/, exitCode: 1 })
})

t.test('an event in thousands of chunks is read in no more time than its length takes', async t => {
  const chunk = `data: ${'x'.repeat(1_000)}\n`
  async function * text () {
    for (let count = 0; count < 4_000; count++) yield chunk
    for (const character of '\r\n\r\n: a comment\r\n\r\nevent: tick\r\ndata: 1\n\ndata: no end') yield character
  }
  const startMark = performance.now()

  const events = []
  for await (const { type, data } of eventsIn(text(), 8 * 1024 * 1024)) events.push([type, data.length])

  t.same(events, [['message', 4_000 * 1_001 - 1], ['message', 0], ['tick', 1]])
  t.ok(performance.now() - startMark < 2_000, 'looked through again with each chunk it would be some 8 GB')
})

t.test('ten thousand agents are no trouble', async t => {
  const many = Object.fromEntries(Array.from({ length: 10_000 }, (_, index) => [`agent-${index}`, agent]))
  const { origin } = await fakeAgent(t, (_request, response) => json(response, many))

  const { code, stdout } = await command('agents', '--url', origin)

  t.equal(code, 0)
  t.equal(stdout.split('\n').length, 10_002)
})

t.test('what is written keeps its own colours, and nothing else that a terminal obeys', async t => {
  t.equal(onlyColours('\u001b[31mred\u001b[39m\n'), '\u001b[31mred\u001b[39m\n')
  t.equal(onlyColours('\u001b[2J\u009b31m\u001b[31;1m'), '\ufffd[2J\ufffd31m\ufffd[31;1m')
  t.notMatch(plain(orders), raw)
  t.notMatch(plain('\u001b\u001b[2J[2J'), raw)
})

/** The example agents as real processes, driven over real sockets; and fleet.yaml, which has to be what it claims to be. */
import { execFile, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { loadConfig } from '../src/config.ts'
import { unmeasured } from './helpers/unmeasured.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const run = promisify(execFile)

interface Example {
  readonly url: string
  readonly port: number
  /** Ends it as a service manager would. @returns its exit code, or the signal that ended it */
  stop (signal?: NodeJS.Signals): Promise<number | NodeJS.Signals | null>
}

/** Starts an example agent on a free port, and ends it with the test. */
async function startAgent (t: Test, name: string, env: NodeJS.ProcessEnv = {}): Promise<Example> {
  const child = spawn(...unmeasured(process.execPath, join(root, 'examples/agents', `${name}.js`)), {
    env: { ...process.env, ...env, PORT: '0', HOST: '127.0.0.1' },
    stdio: ['ignore', 'pipe', 'inherit']
  })
  const exited = once(child, 'exit').then(([code, signal]: unknown[]) => (code ?? signal) as number | NodeJS.Signals | null)
  const stop = async (signal: NodeJS.Signals = 'SIGTERM') => {
    if (child.exitCode === null && child.signalCode === null) child.kill(signal)
    return await exited
  }
  t.teardown(() => stop())
  child.stdout.setEncoding('utf8')
  let said = ''
  for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) {
    said += String(chunk)
    const url = /http:\/\/\S+:(\d+)/.exec(said)
    if (url === null) continue
    child.stdout.resume()
    return { url: url[0], port: Number(url[1]), stop }
  }
  throw new Error(`${name} ended before it listened: ${String(await exited)}`)
}

async function json (url: string, init: RequestInit = {}): Promise<{ status: number, body: unknown }> {
  const response = await fetch(url, init)
  return { status: response.status, body: await response.json() }
}

t.test('encoder', async t => {
  const agent = await startAgent(t, 'encoder')
  const encoded = {
    text: 'Hello, Wörld',
    base64: Buffer.from('Hello, Wörld').toString('base64'),
    hex: Buffer.from('Hello, Wörld').toString('hex'),
    sha256: createHash('sha256').update('Hello, Wörld').digest('hex'),
    rot13: 'Uryyb, Jöeyq',
    instance: agent.port
  }

  t.test('encodes the text of a query, of JSON and of plain text alike, and names its port', async t => {
    const asJson = { method: 'POST', headers: { 'content-type': 'application/json; charset=utf-8' }, body: JSON.stringify({ text: 'Hello, Wörld' }) }
    const asText = { method: 'POST', headers: { 'content-type': 'text/plain' }, body: 'Hello, Wörld' }

    t.match(await json(`${agent.url}/encode?text=${encodeURIComponent('Hello, Wörld')}`), { status: 200, body: encoded })
    t.match(await json(`${agent.url}/encode`, asJson), { status: 200, body: encoded })
    t.match(await json(`${agent.url}/encode`, asText), { status: 200, body: encoded })
  })

  t.test('says what is wrong with a request', async t => {
    const post = (type: string, body: string) => json(`${agent.url}/encode`, { method: 'POST', headers: { 'content-type': type }, body })

    t.match(await json(`${agent.url}/encode`), { status: 400, body: { error: /text/ } })
    t.match(await post('application/json', '{'), { status: 400, body: { error: /JSON/ } })
    t.match(await post('application/json', '{"text":1}'), { status: 400, body: { error: /text/ } })
    t.match(await post('application/json', 'null'), { status: 400, body: { error: /text/ } })
    t.match(await post('image/png', 'x'), { status: 415, body: { error: /text\/plain/ } })
    t.match(await json(`${agent.url}/nothing`), { status: 404, body: { error: String } })
    t.match(await json(`${agent.url}/encode`, { method: 'PUT' }), { status: 405, body: { error: String } })
    t.match(await post('text/plain', 'x'.repeat(1024 * 1024 + 1)), { status: 413, body: { error: String } })
  })

  t.test('echoes the first bytes of a body while the rest is still to come', async t => {
    const outgoing = httpRequest(`${agent.url}/echo`, { method: 'POST', headers: { 'content-type': 'application/x-test' } })
    const first = randomBytes(1_000)
    const second = randomBytes(300_000)

    outgoing.write(first)
    const [incoming] = await once(outgoing, 'response') as [IncomingMessage]
    const [early] = await once(incoming, 'data') as [Buffer]
    const rest: Buffer[] = []
    incoming.on('data', (chunk: Buffer) => rest.push(chunk))
    outgoing.end(second)
    await once(incoming, 'end')

    t.equal(incoming.headers['content-type'], 'application/x-test')
    t.ok(first.subarray(0, early.length).equals(early))
    t.ok(Buffer.concat([early, ...rest]).equals(Buffer.concat([first, second])))
  })

  t.test('is healthy', async t => t.match(await json(`${agent.url}/health`), { status: 200, body: { status: String } }))
})

t.test('git-reader', async t => {
  const repository = t.testdir({ 'read me.txt': 'first\n', src: { 'a.bin': Buffer.from([0, 255, 1]) } })
  const { GIT_DIR: _dir, GIT_WORK_TREE: _tree, GIT_INDEX_FILE: _index, ...env } = process.env
  const git = async (...args: string[]) => {
    const identity = ['-c', 'user.name=A. Tester', '-c', 'user.email=a@example.com', '-c', 'commit.gpgsign=false', '-c', 'core.hooksPath=/dev/null']
    return (await run('git', ['-C', repository, ...identity, ...args], { env })).stdout.trim()
  }
  await git('init', '-q', '-b', 'main')
  await git('add', '.')
  await git('commit', '-q', '-m', 'the first')
  await writeFile(join(repository, 'read me.txt'), 'second\n')
  await git('commit', '-q', '-am', 'the second\n\nwith a body')
  await git('branch', 'side', 'HEAD~1')
  await writeFile(join(repository, 'uncommitted.txt'), 'secret')
  const agent = await startAgent(t, 'git-reader', { REPO: repository })

  t.test('reads history, branches, files and commits', async t => {
    const sha = await git('rev-parse', 'HEAD')

    t.match(await json(`${agent.url}/log`), { status: 200, body: { commits: [{ sha, author: 'A. Tester', subject: 'the second' }, { subject: 'the first' }] } })
    t.match(await json(`${agent.url}/log?n=1`), { body: { commits: { length: 1 } } })
    t.match(await json(`${agent.url}/branches`), { status: 200, body: { branches: [{ name: 'main', sha, current: true }, { name: 'side', current: false }] } })
    t.same(await json(`${agent.url}/files`), { status: 200, body: { files: ['read me.txt', 'src/a.bin'] } })
    t.match(await json(`${agent.url}/commit/${sha.slice(0, 8)}`), { status: 200, body: { sha, subject: 'the second', body: 'with a body', files: ['read me.txt'] } })
  })

  t.test('gives a file byte for byte, as it was committed', async t => {
    const text = await fetch(`${agent.url}/file/read%20me.txt`)
    const binary = await fetch(`${agent.url}/file/src/a.bin`)

    t.equal(await text.text(), 'second\n')
    t.match(text.headers.get('content-type'), /^text\/plain/)
    t.same(Buffer.from(await binary.arrayBuffer()), Buffer.from([0, 255, 1]))
    t.equal(binary.headers.get('content-type'), 'application/octet-stream')
  })

  t.test('answers only what is committed, and takes nothing for an option of git', async t => {
    const cases: readonly [path: string, status: number][] = [
      ['/file/uncommitted.txt', 404], ['/file/src', 404], ['/file/', 404], ['/file/%2e%2e%2f%2e%2e%2fetc/passwd', 404], ['/file/--help', 404], ['/file/%00', 404],
      ['/file/%zz', 400], ['/commit/--all', 400], ['/commit/HEAD', 400], ['/commit/deadbeef', 404],
      ['/log?n=0', 400], ['/log?n=1000', 400], ['/log?n=--all', 400], ['/nothing', 404]
    ]

    for (const [path, status] of cases) t.match(await json(`${agent.url}${path}`), { status, body: { error: String } }, path)
    t.match(await json(`${agent.url}/log`, { method: 'POST' }), { status: 405, body: { error: String } })
  })

  t.test('says so where there is no repository', async t => {
    const elsewhere = await startAgent(t, 'git-reader', { REPO: t.testdirName, GIT_CEILING_DIRECTORIES: join(root, '.tap') })

    t.match(await json(`${elsewhere.url}/log`), { status: 503, body: { error: /not a git repository/ } })
    t.match(await json(`${elsewhere.url}/health`), { status: 200 })
  })
})

t.test('clock', async t => {
  const agent = await startAgent(t, 'clock')
  const events = (text: string) => text.split('\n\n').filter(block => block.includes('data: ')).map(block => ({
    id: /^id: (.*)$/m.exec(block)?.[1], event: /^event: (.*)$/m.exec(block)?.[1], data: JSON.parse(/^data: (.*)$/m.exec(block)?.[1] ?? 'null') as unknown
  }))

  t.test('sends ticks with ids, as many as were asked for', async t => {
    const response = await fetch(`${agent.url}/events?interval=10&count=3`)

    t.equal(response.headers.get('content-type'), 'text/event-stream')
    t.match(events(await response.text()), [{ id: '1', event: 'tick', data: { tick: 1, now: String } }, { id: '2' }, { id: '3' }])
  })

  t.test('goes on behind the last tick a client saw', async t => {
    const from = async (id: string) => events(await (await fetch(`${agent.url}/events?interval=10&count=2`, { headers: { 'last-event-id': id } })).text()).map(event => event.id)

    t.same(await from('41'), ['42', '43'])
    t.same(await from('not ours'), ['1', '2'])
  })

  t.test('tells the time, and what it can\'t do', async t => {
    t.match(await json(`${agent.url}/now`), { status: 200, body: { now: /^\d{4}-\d\d-\d\dT/ } })
    for (const query of ['interval=9', 'interval=x', 'interval=60001', 'count=0', 'count=1e3']) {
      t.match(await json(`${agent.url}/events?${query}`), { status: 400, body: { error: String } }, query)
    }
  })

  t.test('ends its streams whole when it is told to stop', async t => {
    const other = await startAgent(t, 'clock')
    const response = await fetch(`${other.url}/events?interval=60000`)
    const text = response.text()

    t.equal(await other.stop(), 0)

    t.match(events(await text), [{ id: '1' }])
  })
})

t.test('chat', async t => {
  const agent = await startAgent(t, 'chat')
  const room = agent.url.replace('http', 'ws') + '/ws'

  /** Somebody in the room. */
  async function enter (t: Test): Promise<WebSocket> {
    const person = new WebSocket(room)
    t.teardown(() => person.terminate())
    await once(person, 'open')
    return person
  }
  const heard = async (person: WebSocket) => {
    const [data, isBinary] = await once(person, 'message') as [Buffer, boolean]
    return isBinary ? data : data.toString()
  }

  t.test('sends what one says to everybody', async t => {
    const [ann, bob] = [await enter(t), await enter(t)]
    const bytes = randomBytes(70_000)

    const words = Promise.all([heard(ann), heard(bob)])
    ann.send('héllo')
    t.same(await words, ['héllo', 'héllo'])
    t.match(await json(`${agent.url}/people`), { status: 200, body: { people: 2 } })

    const blobs = Promise.all([heard(ann), heard(bob)])
    bob.send(bytes)
    t.same(await blobs, [bytes, bytes])
  })

  t.test('puts fragments together, and answers a ping between them', async t => {
    const ann = await enter(t)
    const message = heard(ann)
    const pong = once(ann, 'pong')

    ann.send('one ', { fin: false })
    ann.ping('are you there?')
    ann.send('two ', { fin: false })
    ann.send('three', { fin: true })

    t.equal(String((await pong)[0]), 'are you there?')
    t.equal(await message, 'one two three')
  })

  t.test('repeats the code of a goodbye', async t => {
    for (const code of [1000, 4001]) {
      const ann = await enter(t)
      ann.close(code, 'bye')
      t.equal((await once(ann, 'close'))[0], code)
    }
  })

  t.test('closes on what the protocol forbids, with the code for it', async t => {
    const cases: readonly [name: string, frame: Buffer, code: number][] = [
      ['no mask', Buffer.from([0x81, 0x01, 0x61]), 1002],
      ['a reserved bit', Buffer.from([0xc1, 0x80, 0, 0, 0, 0]), 1002],
      ['an unknown opcode', Buffer.from([0x83, 0x80, 0, 0, 0, 0]), 1002],
      ['a fragmented ping', Buffer.from([0x09, 0x80, 0, 0, 0, 0]), 1002],
      ['a continuation of nothing', Buffer.from([0x80, 0x80, 0, 0, 0, 0]), 1002],
      ['a close code that may not be sent', Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xed]), 1002],
      ['text that is not UTF-8', Buffer.from([0x81, 0x81, 0, 0, 0, 0, 0xff]), 1007],
      ['a message that is too large', Buffer.from([0x82, 0xff, 0, 0, 0, 0, 0x7f, 0, 0, 0, 0, 0, 0, 0]), 1009]
    ]

    for (const [name, frame, code] of cases) {
      const ann = await enter(t)
      const closed = once(ann, 'close')
      const { _socket: socket } = ann as WebSocket & { _socket: NodeJS.WritableStream }
      socket.write(frame)
      t.equal((await closed)[0], code, name)
    }
  })

  t.test('refuses what is no WebSocket for it, with an HTTP status', async t => {
    const refused = async (path: string, version: number) => {
      const person = new WebSocket(agent.url.replace('http', 'ws') + path, { protocolVersion: version })
      const [error] = await once(person, 'error') as [Error]
      return error.message
    }

    t.match(await refused('/elsewhere', 13), /404/)
    t.match(await refused('/ws', 8), /426/)
    t.match(await json(`${agent.url}/ws`), { status: 426 })
    t.match(await json(`${agent.url}/`), { status: 200, body: { agent: String } })
  })

  t.test('the client says something, prints what comes back, and leaves', async t => {
    const client = fileURLToPath(new URL('../examples/chat-client.js', import.meta.url))
    const talk = await run(process.execPath, [client, room, 'a token', 'hello, room'])

    t.match(talk.stdout, 'hello, room')
    await t.rejects(run(process.execPath, [client, room + '/nobody', '', 'hello']), { code: 1, stderr: /404/ })
    await t.rejects(run(process.execPath, [client]), { code: 2, stderr: /usage/ })
  })

  t.test('says goodbye to everybody when it is told to stop', async t => {
    const other = await startAgent(t, 'chat')
    const person = new WebSocket(other.url.replace('http', 'ws') + '/ws')
    await once(person, 'open')
    const closed = once(person, 'close')

    t.equal(await other.stop(), 0)

    t.equal((await closed)[0], 1001)
  })
})

t.test('an agent', async t => {
  for (const name of ['encoder', 'git-reader', 'clock', 'chat']) {
    t.test(`${name} ends by itself on SIGTERM and on SIGINT, idle connections notwithstanding`, async t => {
      for (const signal of ['SIGTERM', 'SIGINT'] as const) {
        const agent = await startAgent(t, name)
        await json(`${agent.url}/health`)
        t.equal(await agent.stop(signal), 0, signal)
      }
    })
  }

  t.test('says so when its port is taken', async t => {
    const agent = await startAgent(t, 'encoder')

    const second = run(process.execPath, [join(root, 'examples/agents/encoder.js')], { env: { ...process.env, PORT: String(agent.port) } })

    await t.rejects(second, { code: 1, stderr: /EADDRINUSE/ })
  })
})

t.test('fleet.yaml is valid, and names the example agents', async t => {
  const { agents } = await loadConfig(join(root, 'fleet.yaml'))

  t.same(agents.map(agent => agent.name), ['trail-agent', 'git-agent', 'clock-agent', 'chat-agent'])
})

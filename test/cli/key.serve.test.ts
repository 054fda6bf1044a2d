/** Keys that `fleet-gateway key` makes and revokes, against a real `serve` that runs all the while. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { run } from '../../src/cli/program.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { fakeIo } from '../helpers/fake-io.ts'
import { unmeasured } from '../helpers/unmeasured.ts'

/** As `npm test` has built it. */
const main = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url))

const environment = (more: Record<string, string>) => ({ ...process.env, FLEET_SECRET: '', FLEET_SECRET_FILE: '', FLEET_URL: '', ...more })

/** A running `serve` in a folder, and commands that are run beside it. */
async function serving (t: Test, cwd: string, env: Record<string, string> = {}) {
  const child = spawn(...unmeasured(process.execPath, main, 'serve', '--port', '0'), { cwd, env: environment(env), stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => { child.kill('SIGKILL') })
  let said = ''
  const waiting = new Set<() => void>()
  child.stdout.resume()
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString()
    for (const look of waiting) look()
  })
  /** Resolves when this was said, behind what was said before `from`. */
  const says = (pattern: RegExp, from = 0) => new Promise<RegExpExecArray>(resolve => {
    const look = () => {
      const found = pattern.exec(said.slice(from))
      if (found === null) return
      waiting.delete(look)
      resolve(found)
    }
    waiting.add(look)
    look()
  })
  const [, port] = await says(/^Fleet Gateway on http:\/\/[^:]+:(\d+)[^]*try /m)
  const origin = `http://127.0.0.1:${port}`
  return {
    child,
    port: Number(port),
    /** Runs a command that changes the file, and waits until the gateway has taken the change. */
    async key (...args: string[]): Promise<{ stdout: string, stderr: string }> {
      const from = said.length
      const terminal = fakeIo({ env })
      if (await run(['key', ...args, '--fleet', join(cwd, 'fleet.yaml')], terminal.io) !== 0) throw new Error(terminal.stderr())
      await says(/reloaded fleet\.yaml/, from)
      return { stdout: terminal.stdout(), stderr: terminal.stderr() }
    },
    reloaded: (from: number) => says(/reloaded fleet\.yaml/, from),
    said: () => said,
    status: async (token: string, path = '/agents', method = 'GET') => (await fetch(origin + path, { method, headers: { authorization: `Bearer ${token}` } })).status
  }
}

t.test('a new key works and a revoked one stops, without a restart; what is open goes on', async t => {
  const agent = await fakeAgent(t, (_request, response) => response.end('ok'))
  const rooms = new WebSocketServer({ server: agent.server })
  rooms.on('connection', room => room.on('message', data => room.send(data)))
  const text = `# our fleet\nagents:\n  - {name: planner, host: 127.0.0.1, port: ${agent.port}} # the only one\n`
  const cwd = t.testdir({ 'fleet.yaml': text })
  const { port, key, status } = await serving(t, cwd)
  const made = (await readFile(join(cwd, '.fleet/secret'), 'utf8')).trim()
  t.equal(await status(made), 200)

  const reader = (await key('new', 'reader', '--scope', 'read')).stdout.trim()
  const user = (await key('new', 'user', '--scope', 'proxy', '--agent', 'planner')).stdout.trim()

  t.same([await status(reader), await status(reader, '/api/planner/x')], [200, 403])
  t.same([await status(user), await status(user, '/api/planner/x'), await status(user, '/api/other/x')], [403, 200, 403])
  t.equal(await status(made), 401, 'as the first key was told to bring about')
  const socket = new WebSocket(`ws://127.0.0.1:${port}/api/planner/room`, { headers: { authorization: `Bearer ${user}` } })
  t.teardown(() => socket.terminate())
  await once(socket, 'open')

  await key('revoke', 'user')

  t.same([await status(user, '/api/planner/x'), await status(reader)], [401, 200])
  socket.send('still here')
  t.equal(String((await once(socket, 'message'))[0]), 'still here')
  await key('revoke', 'reader')
  t.same([await status(reader), await status(made)], [401, 200], 'the secret that serve made counts again')
  t.equal(await readFile(join(cwd, 'fleet.yaml'), 'utf8'), `${text}auth:\n  keys: []\n`)
})

t.test('the last key of a gateway that was started with keys opens nothing when it is revoked', async t => {
  const cwd = t.testdir({ 'fleet.yaml': 'auth:\n  keys:\n    - {id: only, token: token-in-clear, scopes: [admin]}\n' })
  const { key, status, said } = await serving(t, cwd)
  t.equal(await status('token-in-clear'), 200)

  const { stderr } = await key('revoke', 'only')

  t.equal(await status('token-in-clear'), 401)
  t.match(said(), /There is no secret and no key any more: nobody is let in/)
  t.match(stderr, /It was the last/)
  const token = (await key('new', 'next', '--scope', 'admin')).stdout.trim()
  t.equal(await status(token), 200)
})

t.test('SIGHUP reads a token\'s file again', async t => {
  const cwd = t.testdir({ token: 'the-first-token\n', 'fleet.yaml': 'auth:\n  keys:\n    - {id: a, tokenFile: token, scopes: [read]}\n' })
  const { child, status, said, reloaded } = await serving(t, cwd)
  t.equal(await status('the-first-token'), 200)
  await writeFile(join(cwd, 'token'), 'the-second-token\n')

  const from = said().length
  child.kill('SIGHUP')
  await reloaded(from)

  t.same([await status('the-first-token'), await status('the-second-token')], [401, 200])
  for (const token of ['the-first-token', 'the-second-token']) t.notMatch(said(), token)
})

t.test('a secret in the environment stays valid beside keys', async t => {
  const { key, status } = await serving(t, t.testdir(), { FLEET_SECRET: 'secret-in-the-environment' })

  const token = (await key('new', 'a', '--scope', 'read')).stdout.trim()

  t.same([await status(token), await status('secret-in-the-environment')], [200, 200])
})

t.test('the commands beside it take the new token from the environment', async t => {
  const cwd = t.testdir({ 'fleet.yaml': 'agents: []\n' })
  const { key, port } = await serving(t, cwd)
  const token = (await key('new', 'a', '--scope', 'read')).stdout.trim()

  const terminal = fakeIo({ env: { FLEET_SECRET: token } })
  t.equal(await run(['agents', '--url', `http://127.0.0.1:${port}`, '--json', '--fleet', join(cwd, 'fleet.yaml')], terminal.io), 0)

  t.same(JSON.parse(terminal.stdout()), {})
  const raw = httpRequest({ host: '127.0.0.1', port, path: '/agents', headers: { 'x-fleet-token': token } })
  const [response] = await once(raw.end(), 'response') as [IncomingMessage]
  t.equal(response.resume().statusCode, 200)
})

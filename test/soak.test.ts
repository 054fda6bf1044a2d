/** A small part of `npm run soak` (CONTRIBUTING.md), through the same code: everything is looked at but memory, which needs longer; and few kills and outages. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { noRedis } from './helpers/redis-server.ts'
import { unmeasured } from './helpers/unmeasured.ts'

/** Runs a program of the soak to its end, and shows what it printed if that is no good one. */
async function run (t: Test, program: string, ...args: string[]): Promise<string> {
  const child = spawn(...unmeasured(process.execPath, fileURLToPath(new URL(`soak/${program}`, import.meta.url)), ...args), { stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => { child.kill('SIGTERM') })
  const [printed, complaints, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close') as Promise<[number | null]>])
  t.equal(code, 0, printed)
  t.equal(complaints, '')
  return printed
}

t.test('while agents die, the file changes and clients come and go, nothing is lost, doubled, mixed up or left behind', async t => {
  const printed = await run(t, 'soak.js', '--short', '--seconds', '5', '--seed', '1')

  const requests = Number(/^requests +(\d+)$/m.exec(printed)?.[1])
  t.ok(requests > 0, `${requests} requests were judged`)
})

t.test('while Redis, the ways to it and gateways fail, gateways that share it lose no registration and no request', { skip: noRedis }, async t => {
  const printed = await run(t, 'soak.js', '--redis', '--short', '--seconds', '8', '--seed', '1')

  for (const what of ['requests', 'registrations acknowledged', 'comparisons of all registries']) {
    const count = Number(new RegExp(`^${what} +(\\d+)$`, 'm').exec(printed)?.[1])
    t.ok(count > 0, `${what}: ${count}`)
  }
})

t.test('while Redis loses its data, and each gateway knows something else, what was acknowledged stays and what left stays away', { skip: noRedis }, async t => {
  const printed = await run(t, 'losses.js', '--rounds', '2', '--seed', '1')

  for (const what of ['answers of 200', 'losses of all data', 'comparisons of all registries']) {
    const count = Number(new RegExp(`^${what} +(\\d+)$`, 'm').exec(printed)?.[1])
    t.ok(count > 0, `${what}: ${count}`)
  }
})

t.test('a gateway that is killed at any moment starts again, with everything it had acknowledged', async t => {
  const printed = await run(t, 'kills.js', '--kills', '12', '--seed', '1')

  t.match(printed, /^kills +12$/m)
  const changes = Number(/^acknowledged registrations +(\d+)$/m.exec(printed)?.[1])
  t.ok(changes > 0, `${changes} registrations were acknowledged`)
})

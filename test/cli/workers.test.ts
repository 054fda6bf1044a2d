/** `serve --workers` as processes: several on one port and one Redis, which nobody can tell from one. */
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { Agent, request } from 'node:http'
import { join } from 'node:path'
import { json, text } from 'node:stream/consumers'
import { setTimeout as wait } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { StatsSnapshot } from '../../plugins/stats/index.ts'
import { fakeAgent } from '../helpers/fake-agent.ts'
import { rawClient } from '../helpers/raw-client.ts'
import { noRedis, startRedis, type RedisServer } from '../helpers/redis-server.ts'
import { launch, serve } from '../helpers/serve-process.ts'

interface Answer<B = unknown> { status: number, body: B }

/** Asks on a connection of its own, so that the workers take turns. */
async function ask<B = unknown> (port: number, path: string, method = 'GET', body?: object): Promise<Answer<B>> {
  const outgoing = request({ port, host: '127.0.0.1', path, method, agent: new Agent(), headers: body === undefined ? {} : { 'content-type': 'application/json' } })
  outgoing.end(body === undefined ? undefined : JSON.stringify(body))
  const [response] = await once(outgoing, 'response')
  const isJson = String(response.headers['content-type']).includes('json')
  return { status: response.statusCode, body: await (isJson ? json(response) : text(response)) as B }
}

/** @param yaml of the fleet, beside its Redis */
function folderFor (t: Test, redis: RedisServer, yaml: string): string {
  return t.testdir({ 'fleet.yaml': `redis: {url: '${redis.url}', keyPrefix: '${t.name.replaceAll(/[^a-z]+/g, '-').slice(0, 60)}'}\n${yaml}` })
}

/** As a client does it: a Redis that is slow to write may have it all the same, and then it is known. */
async function registerAtLast (port: number, body: object): Promise<number> {
  const { status } = await ask(port, '/registry/register', 'POST', body)
  if (status !== 503) return status
  await wait(1_000)
  return await registerAtLast(port, body)
}

const statsOf = async (port: number) => (await ask<StatsSnapshot>(port, '/stats')).body

/** Resolves when all of them serve: each has answered once. Who answers is the first in its answer. */
async function allServe (port: number, count: number): Promise<StatsSnapshot> {
  for (const seen = new Set<string>(); ;) {
    const stats = await statsOf(port)
    if (stats.processes?.length === count) seen.add(stats.processes[0]!.id)
    if (seen.size === count) return stats
  }
}

/** The same question so often that every worker has had it. */
const manyTimes = async <T>(question: () => Promise<T>): Promise<T[]> => {
  const answers: T[] = []
  for (let index = 0; index < 9; index++) answers.push(await question())
  return answers
}

t.test('several workers without a Redis are refused, and the way out is named', async t => {
  const { exited, said } = launch(t, ['serve', '--workers', '2', '--port', '0', '--no-auth'], { cwd: t.testdir({}) })

  t.equal(await exited, 1)
  t.match(said(), /Several workers need a Redis.*redis\.url.*FLEET_REDIS_URL/)
  const bad = launch(t, ['serve', '--workers', '0'], { cwd: t.testdir({}) })
  t.equal(await bad.exited, 2)
  const wrong = launch(t, ['serve'], { cwd: t.testdir({}), env: { FLEET_WORKERS: 'many' } })
  t.equal(await wrong.exited, 2)
  t.match(wrong.said(), /FLEET_WORKERS must be a whole number/)
})

t.test('workers on a Redis', { skip: noRedis }, async t => {
  const redis = await startRedis(t)

  await t.test('what one is told all serve when it is answered, their figures are one answer, and a drain lets requests finish', async t => {
    const held: (() => void)[] = []
    const agent = await fakeAgent(t, (request, response) => {
      if (request.url === '/slow') held.push(() => response.end('finished'))
      else response.end()
    })
    const { child, port, exited, said, printed, until } = await serve(t, ['--no-auth', '--no-rate-limit', '--workers', '3'], { cwd: folderFor(t, redis, ''), covered: true })
    const before = await allServe(port, 3)
    t.same(before.processes!.map(({ worker }) => worker).sort(), [1, 2, 3])
    t.equal(new Set(before.processes!.map(({ pid }) => pid)).size, 3)

    for (let round = 0; round < 5; round++) {
      const name = `planner-${round}`
      t.match(String(await registerAtLast(port, { name, host: agent.host, port: agent.port, ttl: 60 })), /^20[01]$/)
      t.same(new Set((await manyTimes(() => ask(port, `/api/${name}/x`))).map(({ status }) => status)), new Set([200]), 'whichever is met')
    }
    t.match(await ask(port, '/registry/planner-0', 'DELETE'), { status: 200 })
    t.same(new Set((await manyTimes(() => ask(port, '/api/planner-0/x'))).map(({ status }) => status)), new Set([404]))

    const stats = await statsOf(port)
    t.equal(stats.agents['planner-1']!.requests, 9, 'those of all')
    t.equal(Object.values(stats.agents['planner-1']!.instances)[0]!.requests, 9)
    t.ok(stats.agents['planner-1']!.latency_ms.p50 > 0)
    t.equal(stats.silent, 0)
    t.ok(stats.processes!.filter(({ total_requests: total }) => total > 0).length === 3, 'each had some')
    const { body: metrics } = await ask<string>(port, '/metrics')
    const shares = [...metrics.matchAll(/^fleet_requests_total\{worker="(\d)",agent="planner-1".*\} (\d+)$/gm)]
    t.equal(shares.reduce((sum, [, , count]) => sum + Number(count), 0), 9)
    t.equal(metrics.match(/^# TYPE fleet_requests_total /gm)?.length, 1)
    for (const worker of [1, 2, 3]) t.match(metrics, `process_cpu_seconds_total{worker="${worker}"}`)
    t.equal(said().match(/^Fleet Gateway on/gm)?.length, 1, 'it is said once')
    t.match(said(), /workers +3 processes on this port/)

    const clients = await Promise.all([1, 2, 3, 4].map(() => rawClient(t, port)))
    for (const client of clients) client.send('GET /api/planner-1/slow HTTP/1.1\r\nHost: localhost\r\n\r\n')
    while (held.length < clients.length) await once(agent.server, 'request')
    child.kill('SIGTERM')
    await until(/^SIGTERM:/m)
    for (const answer of held) answer()
    for (const client of clients) t.match(await client.until(/finished/), /^HTTP\/1\.1 200/)
    t.equal(await exited, 0)
    t.equal(said().match(/^SIGTERM:/gm)?.length, 1)
    const lines = printed().trim().split('\n').map(line => JSON.parse(line) as { path: string })
    t.equal(lines.filter(({ path }) => path === '/api/planner-1/x').length, 9, 'the audit log has whole lines of all')
  })

  await t.test('a limit is one for all of them, to the request', async t => {
    const agent = await fakeAgent(t)
    const { port } = await serve(t, ['--no-auth', '--workers', '2', '--rate-limit', '60'], { cwd: folderFor(t, redis, `rateLimit: {burst: 7}\nagents:\n  - {name: a, host: 127.0.0.1, port: ${agent.port}, rateLimit: {perMinute: 1, burst: 4}}\n`) })
    await once(agent.server, 'connection') // it is probed

    const answers = await manyTimes(() => ask(port, '/api/a/x'))

    t.same(answers.map(({ status }) => status), [200, 200, 200, 200, 429, 429, 429, 429, 429])
  })

  await t.test('one that is killed costs its own requests alone, and another takes its place; a reload is for all of them, and a folder is this gateway\'s alone', async t => {
    const agent = await fakeAgent(t)
    const cwd = folderFor(t, redis, `agents:\n  - {name: a, host: 127.0.0.1, port: ${agent.port}}\n`)
    const { child, port, until, said } = await serve(t, ['--no-auth', '--no-rate-limit', '--workers', '2'], { cwd })
    await registerAtLast(port, { name: 'registered', host: agent.host, port: agent.port })
    const { processes } = await allServe(port, 2)

    for (const number of [1, 2]) {
      const { pid } = processes!.find(({ worker }) => worker === number)!
      process.kill(pid!, 'SIGKILL')
      await until(new RegExp(`Worker ${number} \\(process ${pid}\\) has ended \\(SIGKILL\\), and another takes its place`))
      t.same(new Set((await manyTimes(() => ask(port, '/api/a/x'))).map(({ status }) => status)), new Set([200]), 'the other serves')
      const after = await allServe(port, 2)
      t.notOk(after.processes!.some(other => other.pid === pid))
      t.same(new Set((await manyTimes(() => ask(port, '/api/registered/x'))).map(({ status }) => status)), new Set([200]), 'the new one knows what was registered')
    }

    await writeFile(join(cwd, 'fleet.yaml'), `redis: {url: '${redis.url}', keyPrefix: 'reload'}\nagents:\n  - {name: late, host: 127.0.0.1, port: ${agent.port}}\n`)
    child.kill('SIGHUP')
    while (said().split('"msg":"fleet.yaml reloaded').length < 3 && !(await manyTimes(() => ask(port, '/api/late/x'))).every(({ status }) => status === 200));

    const other = launch(t, ['serve', '--no-auth', '--port', '0'], { cwd })
    t.equal(await other.exited, 1)
    t.match(other.said(), /is in use by another gateway/)
  })

  await t.test('what keeps one from starting is said once, and ends all', async t => {
    const bad = launch(t, ['serve', '--workers', '3', '--port', '0', '--no-auth'], { cwd: folderFor(t, redis, 'agents:\n  - {nme: a}\n') })
    t.equal(await bad.exited, 1)
    t.equal(bad.said().match(/unknown key/g)?.length, 1)

    const { port } = await serve(t, ['--no-auth'], { cwd: t.testdir({}) })
    const second = launch(t, ['serve', '--workers', '3', '--port', String(port), '--no-auth'], { cwd: folderFor(t, redis, '') })
    t.equal(await second.exited, 1)
    t.equal(second.said().match(/is in use/g)?.length, 1)
  })

  await t.test('a second signal ends them at once', async t => {
    const agent = await fakeAgent(t, () => {})
    const { child, port, exited, until } = await serve(t, ['--no-auth', '--no-rate-limit', '--workers', '2'], { cwd: folderFor(t, redis, `agents:\n  - {name: a, host: 127.0.0.1, port: ${agent.port}}\n`) })
    await allServe(port, 2)
    const stuck = await rawClient(t, port)
    stuck.send('GET /api/a/stuck HTTP/1.1\r\nHost: localhost\r\n\r\n')
    await once(agent.server, 'request')
    child.kill('SIGINT')
    await until(/^SIGINT:/m)
    const impatience = setInterval(() => child.kill('SIGINT'), 100)
    t.equal(await exited, 130)
    clearInterval(impatience)
  })

  await t.test('one that hangs keeps the others from ending no longer than a drain may take', async t => {
    const { child, port, exited, said } = await serve(t, ['--no-auth', '--no-rate-limit', '--workers', '2'], { cwd: folderFor(t, redis, 'server: {drainTimeout: 0s}\n') })
    const { processes } = await allServe(port, 2)
    process.kill(processes!.find(({ worker }) => worker === 2)!.pid!, 'SIGSTOP')
    child.kill('SIGTERM')
    t.equal(await exited, 137)
    t.match(said(), /Worker 2 .* does not end, and is killed/)
  })
})

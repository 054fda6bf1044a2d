/** plugins/revocations alone, without Redis: what is revoked, and what is kept of it. With Redis: test/e2e/key-revocation.redis.test.ts. */
import { readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import peers, { type WorkerChannel } from '../../plugins/peers/index.ts'
import revocations, { type RevocationsPluginOptions } from '../../plugins/revocations/index.ts'
import { revocationOf, RevokedTokens } from '../../plugins/revocations/revoked-tokens.ts'
import { fakeClock } from '../helpers/fake-clock.ts'
import { logLines } from '../helpers/log-lines.ts'
import { workerChannels } from '../helpers/worker-channels.ts'

async function appWith (t: Test, options: RevocationsPluginOptions) {
  const { loggerInstance, lines: logged } = logLines()
  const app = Fastify({ loggerInstance })
  t.teardown(() => app.close())
  await app.register(revocations, options)
  return { app, logged }
}

const digest = (digit: string) => digit.repeat(64)

t.test('sets that are merged in any order are the same, and listeners are told what is new alone, before anything else goes on', t => {
  const [one, two] = [{ digest: digest('1'), id: 'one', at: 1 }, { digest: digest('2'), id: 'two', at: 2 }]
  const [here, there] = [new RevokedTokens(), new RevokedTokens()]
  const told: unknown[] = []
  const stop = here.onAdded(added => { told.push(added) })

  here.add([one])
  t.same(told, [[one]])
  there.add([two])
  there.add(here)
  here.add(there)
  t.same(told, [[one], [two]])
  here.add([{ ...one, at: 3 }])
  t.same(told, [[one], [two]], 'that is known')
  t.same([...here], [one, two])
  t.same([...there], [two, one])
  t.same(here.find(digest('2')), two)
  stop()
  here.add([{ digest: digest('3'), id: 'three', at: 3 }])
  t.equal(told.length, 2)
  t.end()
})

t.test('what no gateway writes is no revocation', t => {
  t.same(revocationOf(digest('a'), 'a', 0), { digest: digest('a'), id: 'a', at: 0 })
  for (const [wrong, id, at] of [[digest('A'), 'a', 0], [digest('a').slice(1), 'a', 0], [undefined, 'a', 0], [digest('a'), 'a b', 0], [digest('a'), 'a'.repeat(65), 0], [digest('a'), 7, 0], [digest('a'), 'a', NaN], [digest('a'), 'a', -1], [digest('a'), 'a', 9e15], [digest('a'), 'a', 0.5]] as const) {
    t.equal(revocationOf(wrong, id, at), undefined, `${String(wrong)} ${id} ${at}`)
  }
  t.end()
})

t.test('what is revoked counts at once, is on disk when that is acknowledged, and there again after a restart', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const clock = fakeClock(Date.UTC(2026, 0, 31))
  const { app: first, logged } = await appWith(t, { stateDir, clock })
  let told = 0
  first.revocations.onRevoked(() => { told++ })

  const revoking = first.revocations.revoke('build-bot', [digest('1'), digest('2')])
  t.same(first.revocations.find(digest('2')), { digest: digest('2'), id: 'build-bot', at: clock.now() }, 'in the same tick')
  t.equal(told, 1)
  await revoking
  t.same(JSON.parse(await readFile(join(stateDir, 'revoked.json'), 'utf8')), {
    version: 1,
    revoked: ['1', '2'].map(digit => ({ sha256: digest(digit), id: 'build-bot', at: '2026-01-31T00:00:00.000Z' }))
  })
  t.equal((await stat(join(stateDir, 'revoked.json'))).mode & 0o777, 0o600)
  clock.advance(1_000)
  await first.revocations.revoke('build-bot', [digest('1')])
  await first.close()
  const { app: second } = await appWith(t, { stateDir, clock })

  t.same(second.revocations.find(digest('1')), { digest: digest('1'), id: 'build-bot', at: Date.UTC(2026, 0, 31) }, 'the second time changed nothing')
  t.same(second.revocations.find(digest('3')), undefined)
  t.match(logged, [{ level: 30, msg: 'Keys are revoked', keys: ['build-bot'] }])
  t.equal(logged.length, 1)
  t.notMatch(JSON.stringify(logged), digest('1'))
})

t.test('without a folder it is kept in memory', async t => {
  const { app } = await appWith(t, {})

  await app.revocations.revoke('build-bot', [digest('1')])

  t.match(app.revocations.find(digest('1')), { id: 'build-bot' })
  t.equal(app.revocations.areShared, false)
})

t.test('a start without anything to keep writes nothing', async t => {
  const stateDir = t.testdir({})
  const { app } = await appWith(t, { stateDir })
  await app.close()

  t.same(await readdir(stateDir), [])
})

t.test('a damaged file is set aside with a warning, and what comes is kept', async t => {
  for (const text of ['{', 'null', '{"version":2,"revoked":[]}', '{"version":1,"revoked":{}}']) {
    const stateDir = t.testdir({ 'revoked.json': text })
    const { app, logged } = await appWith(t, { stateDir })

    t.match(logged, [{ level: 40, msg: /revoked\.json is damaged \(.+\); it was set aside as .*revoked\.json\.damaged-\d+, and the gateway starts without the keys that were revoked$/ }])
    await app.revocations.revoke('build-bot', [digest('1')])
    const files = await readdir(stateDir)
    t.equal(files.length, 2)
    t.equal(await readFile(join(stateDir, files.find(name => name.includes('damaged'))!), 'utf8'), text)
    await app.close()
  }
})

t.test('a bad entry is named, and takes no other with it', async t => {
  const sound = { sha256: digest('1'), id: 'a', at: '2026-01-31T00:00:00.000Z' }
  const revoked = [null, sound, { ...sound, sha256: 'no digest' }, { ...sound, at: 'once' }, { ...sound, id: '\u001b[2J' }, 'text']
  const { app, logged } = await appWith(t, { stateDir: t.testdir({ 'revoked.json': JSON.stringify({ version: 1, revoked }) }) })

  t.match(app.revocations.find(digest('1')), { id: 'a', at: Date.UTC(2026, 0, 31) })
  t.same(logged.map(({ msg }) => msg), [0, 2, 3, 4, 5].map(index => `Left out of the kept revoked keys: revoked[${index}]`))
})

t.test('a file that can\'t be read is left as it is, and that new ones can\'t be kept is said to who revokes', async t => {
  const stateDir = t.testdir({ 'revoked.json': {} })
  const { app, logged } = await appWith(t, { stateDir })

  t.match(logged, [{ level: 40, msg: /revoked\.json can't be read \(EISDIR.*the gateway starts without the keys that were revoked, and new ones can't be kept until that is put right/ }])
  await t.rejects(app.revocations.revoke('build-bot', [digest('1')]), { code: 'FLEET_NOT_KEPT' })
  t.ok(app.revocations.find(digest('1')))
})

t.test('what can\'t be written is refused all the same, that is said, and it is written as soon as it can be', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const clock = fakeClock()
  const { app, logged } = await appWith(t, { stateDir, clock })
  await writeFile(stateDir, 'a file in the way')

  await t.rejects(app.revocations.revoke('build-bot', [digest('1')]), {
    code: 'FLEET_NOT_KEPT',
    statusCode: 503,
    message: /^The key "build-bot" is refused here from now on; it can not be written to disk just now, and until it is this gateway may forget it by a restart; the log says why$/,
    headers: { 'retry-after': '10' }
  })
  await t.rejects(app.revocations.revoke('build-bot', [digest('1')]), { code: 'FLEET_NOT_KEPT' }, 'nor is the second time any good')
  t.ok(app.revocations.find(digest('1')))
  await rm(stateDir)
  clock.advance(2_000)
  await app.close()

  t.match(JSON.parse(await readFile(join(stateDir, 'revoked.json'), 'utf8')), { revoked: [{ id: 'build-bot' }] })
  t.match(logged, [{ msg: 'Keys are revoked' }, { level: 50, msg: 'The revoked keys could not be kept' }, { level: 30, msg: 'The revoked keys are kept again' }])
  t.equal(logged.length, 3, 'once each')
})

t.test('a worker that starts knows each key that was revoked meanwhile, and none is lost from the file that they share', async t => {
  const stateDir = join(t.testdir({}), '.fleet')
  const channelOf = workerChannels()
  const workerWith = async (workers: WorkerChannel) => {
    const { loggerInstance } = logLines()
    const app = Fastify({ loggerInstance })
    t.teardown(() => app.close())
    await app.register(peers, { workers })
    await app.register(revocations, { stateDir })
    return app
  }
  const keptIds = async () => (JSON.parse(await readFile(join(stateDir, 'revoked.json'), 'utf8')) as { revoked: { id: string }[] }).revoked.map(({ id }) => id).sort()
  const first = await workerWith(channelOf(1))
  await first.ready()
  await first.revocations.revoke('before', [digest('0')])

  // It has read the file, and is asked nothing yet.
  const second = await workerWith(channelOf(2))
  await first.revocations.revoke('early', [digest('1')])
  t.equal(second.revocations.find(digest('1')), undefined, 'nobody could tell it')
  // It begins to ask what it has missed.
  const isReady = second.ready()
  const late = first.revocations.revoke('late', [digest('2')])
  await Promise.all([isReady, late])
  for (const [index, id] of ['before', 'early', 'late'].entries()) t.equal(second.revocations.find(digest(String(index)))?.id, id)

  // At both at once.
  await Promise.all(['3', '4', '5', '6'].map(async digit => await (Number(digit) % 2 === 0 ? first : second).revocations.revoke(`at-once-${digit}`, [digest(digit)])))
  const all = ['at-once-3', 'at-once-4', 'at-once-5', 'at-once-6', 'before', 'early', 'late']
  t.same(await keptIds(), all)
  for (const worker of [first, second]) t.same(['3', '4', '5', '6'].map(digit => worker.revocations.find(digest(digit)) !== undefined), [true, true, true, true])

  await second.close()
  const third = await workerWith(channelOf(2))
  await third.ready()
  await third.revocations.revoke('last', [digest('7')])
  t.same(await keptIds(), [...all, 'last'].sort())
  t.equal(first.revocations.find(digest('7'))?.id, 'last')
})

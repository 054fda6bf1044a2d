/** plugins/discovery: which changes of a real file are noticed, and what is read while somebody is still writing. */
import { unwatchFile, watchFile } from 'node:fs'
import { mkdir, readFile, rename, rm, symlink, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import type { Loaded } from '../../plugins/discovery/index.ts'
import { settledHash } from '../../plugins/discovery/file-watch.ts'
import { fleet, fleetFile, replace, watched } from '../helpers/watched-fleet.ts'

/** How many listen to changes of the file: Node has one StatWatcher for each path, and hands it out again. */
function watchersOf (file: string): number {
  const listener = () => {}
  const others = watchFile(file, { persistent: false }, listener).listenerCount('change') - 1
  unwatchFile(file, listener)
  return others
}

t.test('a missing file is an empty fleet, and is taken when it comes', async t => {
  const file = join(t.testdir({}), 'fleet.yaml')
  const { app, names, reloaded } = await watched(t, { file })
  t.same(names(), [])
  t.equal(await app.discovery.reload(), true, 'still missing is no fault')

  const change = reloaded()
  await writeFile(file, fleet('a'))
  await change

  t.same(names(), ['a'])
})

t.test('an untouched or only touched file changes nothing', async t => {
  const file = fleetFile(t, fleet('a'))
  const { app, reloaded } = await watched(t, { file })
  const stop = app.registry.onChange(() => t.fail('nothing changes'))
  t.teardown(stop)
  const heard: Loaded[] = []
  app.discovery.onReload(loaded => { heard.push(loaded) })

  await utimes(file, new Date(), new Date())
  await replace(file, fleet('a'))
  await app.discovery.reload()
  t.equal(heard.length, 1, 'the forced one alone')

  const change = reloaded()
  await replace(file, `# a comment\n${fleet('a')}`)
  await change
  t.equal(heard.length, 2)
})

t.test('a file that disappears leaves the fleet running, and is taken when it is back', async t => {
  const file = fleetFile(t, fleet('a'))
  const { app, line, names, reloaded } = await watched(t, { file })

  const gone = line(/is gone; the running fleet stays/)
  await rm(file)
  await gone
  t.match(app.discovery.status, { ok: false, error: `${file}: is gone; the running fleet stays` })
  t.equal(await app.discovery.reload(), false)
  t.same(names(), ['a'])

  const back = reloaded()
  await writeFile(file, fleet('b'))
  await back
  t.same(names(), ['b'])
  t.equal(app.discovery.status.ok, true)
})

t.test('a file that loses all it had is half of a write: the fleet stays until there is something in it, or somebody insists', async t => {
  for (const nothing of ['', ' \n\n']) {
    const file = fleetFile(t, fleet('a'))
    const { app, line, names, reloaded } = await watched(t, { file })

    const said = line(/not reloaded/)
    await writeFile(file, nothing)
    await said
    t.match(app.discovery.status, { ok: false, error: `${file}: is empty; the running fleet stays. Write "agents: []", or send SIGHUP, if that is meant` })
    t.same(names(), ['a'])

    const filled = reloaded()
    await writeFile(file, fleet('b'))
    await filled
    t.same(names(), ['b'])
    t.equal(app.discovery.status.ok, true)

    const emptied = line(/not reloaded/)
    await writeFile(file, nothing)
    await emptied
    t.equal(await app.discovery.reload(), true)
    t.same(names(), [])
    t.equal(app.discovery.status.ok, true)
  }
})

t.test('what is meant to be an empty fleet is one', async t => {
  for (const text of ['agents: []\n', 'agents:\n', '# nobody yet\n']) {
    const file = fleetFile(t, fleet('a'))
    const { names, reloaded } = await watched(t, { file })

    const change = reloaded()
    await writeFile(file, text)
    await change

    t.same(names(), [])
  }
})

t.test('an empty file at the start is an empty fleet, and so is one that comes to be', async t => {
  const file = fleetFile(t, '')
  const { app, names, reloaded } = await watched(t, { file })
  t.same(names(), [])
  t.equal(app.discovery.status.ok, true)

  const change = reloaded()
  await writeFile(file, fleet('a'))
  await change

  t.same(names(), ['a'])
})

t.test('a file that is written in place is read when it is complete', async t => {
  const file = fleetFile(t, 'one')
  const read: string[] = []
  const load = async () => {
    read.push(await readFile(file, 'utf8'))
    return { agents: [] }
  }
  const { reloaded } = await watched(t, { file, load })
  const looked = new Promise<void>(resolve => {
    const listener = () => {
      unwatchFile(file, listener)
      resolve()
    }
    watchFile(file, { persistent: false, interval: 15 }, listener)
  })

  const change = reloaded()
  await writeFile(file, '')
  await looked // discovery, too, has seen now that the file is another, and could have read it
  await readFile(file)
  await readFile(file)
  await writeFile(file, 'two')
  await change

  t.same(read, ['one', 'two'])
})

/** Resolves when the fleet is this one. */
async function becomes ({ app, names }: Awaited<ReturnType<typeof watched>>, wanted: readonly string[]): Promise<void> {
  while (names().join() !== wanted.join()) {
    await new Promise<void>(resolve => {
      const stop = app.discovery.onReload(() => {
        stop()
        resolve()
      })
    })
  }
}

t.test('of changes in quick succession the last one is what runs', async t => {
  const file = fleetFile(t, fleet('a'))
  const scene = await watched(t, { file })

  for (const name of ['b', 'c', 'd', 'e']) await (name === 'd' ? writeFile(file, fleet(name)) : replace(file, fleet(name)))
  await becomes(scene, ['e'])

  t.equal(scene.app.discovery.status.ok, true)
  t.equal(await scene.app.discovery.reload(), true)
  t.same(scene.names(), ['e'])
})

/** A reader of the file whose next reading waits until it is let go on, with what it read already in hand. */
function heldReader (file: string) {
  let arrived = () => {}
  let go = () => {}
  let isHeld = false
  let held = Promise.resolve()
  return {
    async load () {
      const name = (await readFile(file, 'utf8')).trim()
      if (isHeld) {
        isHeld = false
        arrived()
        await held
      }
      return { agents: [{ name, instances: [] }] }
    },
    /** Resolves when the next reading has begun. */
    hold (): Promise<void> {
      isHeld = true
      held = new Promise(resolve => { go = resolve })
      return new Promise(resolve => { arrived = resolve })
    },
    goOn: () => go()
  }
}

t.test('a change during a reload is not lost, and what it replaced is never applied', async t => {
  for (const how of ['the watcher', 'SIGHUP']) {
    const file = fleetFile(t, 'one')
    const reader = heldReader(file)
    const scene = await watched(t, { file, load: reader.load, ...(how === 'SIGHUP' && { intervalMs: 60_000 }) })
    const seen: string[] = []
    scene.app.discovery.onReload(() => { seen.push(...scene.names()) })

    const reading = reader.hold()
    await replace(file, 'two')
    const asked = how === 'SIGHUP' ? scene.app.discovery.reload() : Promise.resolve(true)
    await reading
    await replace(file, 'three')
    reader.goOn()
    await becomes(scene, ['three'])

    t.equal(await asked, true)
    t.notOk(seen.includes('two'), how)
    t.equal(scene.app.discovery.status.ok, true)
  }
})

t.test('SIGHUP during a reload reads once more after it', async t => {
  const file = fleetFile(t, 'one')
  const reader = heldReader(file)
  const scene = await watched(t, { file, load: reader.load })
  const reading = reader.hold()
  await replace(file, 'two')
  await reading
  let reloads = 0
  scene.app.discovery.onReload(() => { reloads++ })

  const asked = [scene.app.discovery.reload(), scene.app.discovery.reload()]
  reader.goOn()

  t.same(await Promise.all(asked), [true, true])
  t.same([reloads, scene.names()], [3, ['two']])
})

t.test('an editor that deletes the file and makes it again changes it, and nothing else', async t => {
  const file = fleetFile(t, fleet('a'))
  const scene = await watched(t, { file })
  const seen: string[] = []
  scene.app.discovery.onReload(() => { seen.push(scene.names().join()) })

  await rename(file, `${file}~`)
  await writeFile(file, '')
  await writeFile(file, fleet('b'))
  await rm(`${file}~`)
  await becomes(scene, ['b'])

  t.same(seen, ['b'], 'it was never empty')
})

t.test('a ConfigMap as Kubernetes mounts it: a link to a link, which is turned in one step', async t => {
  const folder = t.testdir({ '..one': { 'fleet.yaml': fleet('a') } })
  const at = (name: string) => join(folder, name)
  await symlink('..one', at('..data'))
  await symlink('..data/fleet.yaml', at('fleet.yaml'))
  const scene = await watched(t, { file: at('fleet.yaml') })

  for (const [version, name] of [['..two', 'b'], ['..three', 'c']] as const) {
    await mkdir(at(version))
    await writeFile(join(at(version), 'fleet.yaml'), fleet(name))
    await symlink(version, at('..data_tmp'))
    await rename(at('..data_tmp'), at('..data'))
    await becomes(scene, [name])
  }

  t.equal(scene.app.discovery.status.ok, true)
  t.same(scene.logged.filter(({ level }) => level > 30), [])
})

t.test('a file that never rests is taken as it is in the end', async t => {
  const file = fleetFile(t, '')
  let looks = 0
  const restless = async () => { await writeFile(file, `# ${++looks}`) }

  t.type(await settledHash(file, restless), 'string')
  t.ok(looks > 3 && looks < 100)
})

t.test('a link that is turned to another file is noticed, as in a mounted ConfigMap', async t => {
  const folder = t.testdir({ one: { 'fleet.yaml': fleet('a') }, two: { 'fleet.yaml': fleet('b') } })
  await symlink(join(folder, 'one'), join(folder, 'data'))
  const { names, reloaded } = await watched(t, { file: join(folder, 'data', 'fleet.yaml') })

  const change = reloaded()
  await symlink(join(folder, 'two'), join(folder, 'next'))
  await rename(join(folder, 'next'), join(folder, 'data'))
  await change

  t.same(names(), ['b'])
})

t.test('a folder in the place of the file is reported, and the fleet stays', async t => {
  const file = fleetFile(t, fleet('a'))
  const { app, line, names } = await watched(t, { file })

  const said = line(/it is a folder/)
  await rm(file)
  await mkdir(file)
  await said

  t.equal(app.discovery.status.ok, false)
  t.same(names(), ['a'])
})

t.test('a file that changes while it is read is read again', async t => {
  const file = fleetFile(t, 'one')
  let vanishNext = false
  const load = async () => {
    if (vanishNext) {
      vanishNext = false
      await rm(file)
    }
    const name = await readFile(file, 'utf8').catch(() => undefined)
    return { agents: name === undefined ? [] : [{ name, instances: [] }] }
  }
  const { app, names } = await watched(t, { file, load, intervalMs: 60_000 })

  vanishNext = true
  t.equal(await app.discovery.reload(), false)

  t.same(names(), ['one'], 'not taken for an empty fleet')
})

t.test('neither a start that failed nor the end leaves a watcher behind', async t => {
  const file = fleetFile(t, fleet('a'))
  const { app } = await watched(t, { file })
  t.equal(watchersOf(file), 1)
  await app.close()
  t.equal(watchersOf(file), 0)

  await writeFile(file, 'agents: [')
  await t.rejects(watched(t, { file }))
  t.equal(watchersOf(file), 0)
})

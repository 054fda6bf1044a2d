/** Parts of the soak that change the fleet under its requests: processes that die, a file that is rewritten, registrations that come and go. */
import { rename, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ask, exchange, judge } from './client.js'

/** Longer than any small request takes, so that no request meets two disturbances of its agent. */
const restMs = 1_500

const agentsOf = name => name === 'nomad' ? ['beta', 'gamma'] : [name.split('-')[0]]

/** Kills one instance at a time, politely or not, and starts it again. */
export async function killer (soak) {
  const { random, fleet, ledger } = soak
  while (!soak.over()) {
    const name = random.pick(fleet.mortal)
    await fleet.disturb(agentsOf(name), async () => {
      await fleet.kill(name, random.pick(['SIGKILL', 'SIGKILL', 'SIGTERM']))
      await soak.pause(random.integer(0, 1_500))
      await fleet.revive(name)
      ledger.count('restarts of agents')
      await soak.pause(restMs)
    })
    await soak.pause(random.integer(50, 500))
  }
}

const stays = { alpha: ['alpha-0', 'alpha-1', 'alpha-2'], beta: ['beta-0', 'beta-1'], gamma: ['gamma-0'], stale: ['stale-0', 'stale-1'], steady: ['steady-0'] }

/** fleet.yaml as `choice` has it: who is left out, where the nomad is, and settings that say the same in another way. */
export function fleetYaml ({ portOf }, random, { without = '', nomadAt = 'beta' } = {}) {
  const lines = random.shuffle(Object.keys(stays)).map(agent => {
    const names = random.shuffle([...stays[agent], ...(nomadAt === agent ? ['nomad'] : [])]).filter(name => name !== without)
    const instances = names.map(name => `{host: 127.0.0.1, port: ${portOf[name]}, weight: ${random.integer(1, 5)}}`)
    return `  - {name: ${agent}, instances: [${instances.join(', ')}], aliases: [${agent}-${random.integer(1, 9)}, also-${agent}], timeout: ${random.integer(20, 40)}s, timeouts: {idle: ${random.integer(60, 90)}s}}`
  })
  return `agents:\n${lines.join('\n')}\ntimeouts: {connect: ${random.integer(2, 5)}s}\nhealth: {interval: ${random.integer(1, 9)}s}\n`
}

/** Rewrites fleet.yaml in every way in which somebody might. */
export async function reloader (soak) {
  const { random, fleet, ledger, gateway, folder } = soak
  const file = join(folder, 'fleet.yaml')
  let nomadAt = 'beta'
  const loaded = async () => (await ask(gateway, 'GET', '/stats')).body.config
  while (!soak.over()) {
    const kind = random.pick(['atomic', 'in place', 'emptied first', 'broken first', 'touched', 'hangup'])
    const change = random.pick(['settings', 'settings', 'leave', 'move'])
    const rewrite = async choice => {
      const text = fleetYaml(fleet, random, choice)
      const { loaded_at: before } = await loaded()
      if (kind === 'atomic') {
        await writeFile(`${file}.new`, text)
        await rename(`${file}.new`, file)
      } else {
        if (kind === 'emptied first') {
          await writeFile(file, '')
          await soak.pause(random.integer(0, 600))
        }
        if (kind === 'broken first') {
          await writeFile(file, text.slice(0, text.length - 30))
          await soak.pause(random.integer(0, 600))
        }
        await writeFile(file, text)
        if (kind === 'touched') await utimes(file, new Date(), new Date())
        if (kind === 'hangup') gateway.signal('SIGHUP')
      }
      for (let looks = 0; ; looks++) {
        const { loaded_at: now, ok } = await loaded()
        if (ok && now !== before) break
        if (looks > 200) return ledger.fault('wrong', `a file written ${kind} was not loaded: ${JSON.stringify(await loaded())}`)
        await soak.pause(50)
      }
      ledger.count('reloads')
    }
    if (change === 'settings') await rewrite({ nomadAt })
    else if (change === 'move') {
      await fleet.disturb(['beta', 'gamma'], async () => {
        nomadAt = nomadAt === 'beta' ? 'gamma' : 'beta'
        await rewrite({ nomadAt })
        await soak.pause(restMs / 3)
      })
    } else {
      const name = random.pick(fleet.mortal.filter(mortal => mortal !== 'nomad'))
      await fleet.disturb(agentsOf(name), async () => {
        await rewrite({ nomadAt, without: name })
        await soak.pause(random.integer(0, 500))
        await rewrite({ nomadAt })
        await soak.pause(restMs / 3)
      })
    }
    await soak.pause(random.integer(20, 300))
  }
}

/** Registers an instance of `pool`. */
export async function register (gateway, fleet, name, more = {}) {
  const { status, body } = await ask(gateway, 'POST', '/registry/register', { name: 'pool', host: '127.0.0.1', port: fleet.portOf[name], ...more })
  return { status, ...body }
}

/** Instances of `pool` come and go by the registration API, drained or at once; agents of a moment come, are asked, and go for good. */
export async function registrar (soak) {
  const { random, fleet, ledger, gateway } = soak
  while (!soak.over()) {
    if (random.chance(0.6)) {
      const name = random.pick(['pool-1', 'pool-2'])
      const { status, instance } = await register(gateway, fleet, name, random.chance(0.5) ? { ttl: 30 } : {})
      if (status !== 201 && status !== 200) ledger.fault('wrong', `registering ${name}: ${status}`)
      else {
        await soak.pause(random.integer(0, 300))
        const { status: left } = await ask(gateway, 'DELETE', `/registry/pool/instances/${instance.id}${random.chance(0.6) ? '?drain=true' : ''}`)
        if (left !== 200) ledger.fault('wrong', `deregistering ${name}: ${left}`)
      }
    } else {
      const name = `moment-${random.integer(0, 1e9)}`
      await register(gateway, fleet, 'pool-0', { name })
      const answerBytes = random.integer(0, 5_000)
      const pending = exchange(soak, { id: ledger.id('get'), path: `/api/${name}/echo?bytes=${answerBytes}&delay=${random.integer(20, 60)}` })
      await soak.pause(15)
      // Once its request is at the agent, an agent may be gone.
      const { status } = await ask(gateway, 'DELETE', `/registry/${name}`)
      const result = await pending
      if (result.status !== 404) judge(soak, result, { answerBytes })
      if (status !== 200) ledger.fault('wrong', `deregistering ${name}: ${status}`)
      const gone = await ask(gateway, 'GET', `/api/${name}/`)
      if (gone.status !== 404) ledger.fault('wrong', `${name} was deregistered and answers ${gone.status}`)
    }
    ledger.count('registrations')
    await soak.pause(random.integer(20, 200))
  }
}

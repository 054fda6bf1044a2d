/**
 * The fleet of the soak: which instances there are, which process each lives in, and who may be disturbed. At most one instance of an agent is
 * disturbed at a time (killed, taken out, moved), so that every request has somewhere to go.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const program = fileURLToPath(new URL('agent.js', import.meta.url))

/** Below where the kernel takes ports for outgoing connections: nobody else gets one while its process is down. */
export async function freePorts (count) {
  const ports = new Set()
  while (ports.size < count) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    const server = createServer().listen(port, '127.0.0.1')
    const free = await Promise.race([once(server, 'listening').then(() => true), once(server, 'error').then(() => false)])
    if (!free) continue
    server.close()
    await once(server, 'close')
    ports.add(port)
  }
  return [...ports]
}

/** Agents of the file: the first of their processes are killed and taken out; `gamma` and `beta` share one that moves between them. */
const ofOneGateway = {
  mortal: ['alpha-0', 'alpha-1', 'alpha-2', 'beta-0', 'beta-1', 'nomad'],
  lasting: ['gamma-0', 'steady-0', 'stale-0', 'stale-1', 'pool-0', 'pool-1', 'pool-2']
}

/** Each agent, and what the names of those of its instances begin with that are killed. */
export const mortalOf = { alpha: ['alpha'], beta: ['beta', 'nomad'], gamma: ['gamma', 'nomad'], stale: [], pool: [], steady: [] }

/** What happened so shortly before a request may have met its connection. */
const aftermathMs = 50

/** Instances that are `mortal` have a process each; all that are `lasting` share one. */
export async function startFleet ({ folder, random, instances: { mortal, lasting } = ofOneGateway }) {
  const names = [...mortal, ...lasting]
  const ports = await freePorts(names.length)
  const portOf = Object.fromEntries(names.map((name, index) => [name, ports[index]]))
  const processes = new Map()
  const records = []
  /** Of each instance that was down: until when, of a monotonic clock; Infinity while it is. */
  const downUntil = new Map()
  const busy = new Set()
  let runs = 0

  async function start (...instances) {
    const record = join(folder, `record-${runs++}`)
    records.push(record)
    const child = fork(program, [record, String(random.integer(0, 2 ** 31)), ...instances.map(name => `${name}=${portOf[name]}`)], { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    for (const name of instances) processes.set(name, child)
    await once(child, 'message')
  }

  await Promise.all([start(...lasting), ...mortal.map(name => start(name))])

  return {
    mortal,
    portOf,
    records,
    /** Whether an instance with such a name was down when something began, or since; just this one, when one is named. */
    wasDown: (prefixes, beganAt, instance = '') => [...downUntil].some(([name, until]) => {
      return prefixes.some(prefix => name.startsWith(prefix)) && (instance === '' || name === instance) && until >= beganAt - aftermathMs
    }),
    /** Runs `task` while nobody else disturbs these agents, and not at all when somebody does already. */
    async disturb (agents, task) {
      if (agents.some(agent => busy.has(agent))) return
      for (const agent of agents) busy.add(agent)
      try {
        await task()
      } finally {
        for (const agent of agents) busy.delete(agent)
      }
    },
    /** Ends the instance's process. */
    async kill (name, signal) {
      const child = processes.get(name)
      downUntil.set(name, Infinity)
      const exited = once(child, 'exit')
      child.kill(signal)
      await exited
    },
    async revive (name) {
      await start(name)
      downUntil.set(name, performance.now())
    },
    end () {
      for (const child of new Set(processes.values())) child.kill('SIGKILL')
    }
  }
}

/** The gateways that share a Redis in the soak, each a process with a folder and a way to Redis of its own, and what is done to them. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { startGateway } from './gateway-process.js'
import { openLine } from './line.js'

/** By then whoever had chosen a gateway has sent its request. */
const lastWordMs = 50

/**
 * @param {{ folder: string, main: string, redisPort: number, ports: readonly number[], yaml: string, openLine?: typeof openLine }} place ports of the lines to
 * Redis, there are as many gateways; and what opens one
 */
export async function startGateways ({ folder, main, redisPort, ports, yaml, ledger, openLine: open = openLine }) {
  const processes = []
  const problems = []

  /** `port` is where it listens; it is another one after each start. */
  const gateways = await Promise.all(ports.map(async (linePort, index) => {
    const own = join(folder, `gateway-${index}`)
    await mkdir(own)
    await writeFile(join(own, 'fleet.yaml'), `${yaml}redis: {url: 'redis://127.0.0.1:${linePort}'}\n`)
    return { name: `gateway ${index}`, folder: own, line: await open(redisPort, linePort), isLive: false, starts: 0, kills: 0, process: undefined, port: 0 }
  }))

  async function start (gateway) {
    const begun = performance.now()
    const process = await startGateway({ main, folder: gateway.folder })
    processes.push(process)
    Object.assign(gateway, { process, port: process.port, isLive: true, starts: gateway.starts + 1 })
    ledger.most('longest start of a gateway, ms', performance.now() - begun)
  }

  await Promise.all(gateways.map(start))
  return {
    all: gateways,
    live: () => gateways.filter(({ isLive }) => isLive),
    start,
    async kill (gateway) {
      gateway.isLive = false
      gateway.kills++
      await gateway.process.kill()
    },
    /** In order: what it has begun it finishes. */
    async terminate (gateway) {
      gateway.isLive = false
      await pause(lastWordMs)
      const begun = performance.now()
      const { code, signal } = await gateway.process.end()
      ledger.most('longest end of a gateway, ms', performance.now() - begun)
      if (code !== 0) problems.push(`${gateway.name} ended with ${signal ?? code}: ${gateway.process.log().slice(-2_000)}`)
    },
    /** Of all processes that there were, a line each. */
    problems: () => [...problems, ...processes.flatMap(({ faults }) => faults)],
    logs: () => processes.map(({ pid, log }) => [pid, log()]),
    /** At once, for the end of this process. */
    end () {
      for (const process of processes) process.kill()
    }
  }
}

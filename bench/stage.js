/**
 * Everything that the benchmark starts or writes is here, and is gone at the end, whatever the end is: processes by their ids, with what they
 * started in turn, and one temporary folder. Also says which processor each runs on.
 */
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer, connect } from 'node:net'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { allowedCpus, cpuSeconds, hasProc, treePids } from './proc.js'

/** How long a process may take to be ready, and then to leave. */
const startMs = 60_000
const leaveMs = 5_000

/** The file of a program, or undefined; sbin is not on everybody's PATH. */
export function findProgram (name) {
  const { stdout, status } = spawnSync('sh', ['-c', `PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v ${name}`], { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : undefined
}

/** Where the proxy runs, and where everything else does; undefined where processes can't be pinned. */
function placement () {
  const taskset = findProgram('taskset')
  const cpus = allowedCpus()
  if (taskset === undefined) return { about: 'nothing is pinned: taskset is not installed' }
  if (cpus.length < 2) return { about: 'nothing is pinned: there is one processor' }
  const [proxy, ...others] = cpus
  return { taskset, proxy: String(proxy), others: others.join(','), about: `the proxy is pinned to processor ${proxy}, load and upstreams to ${others.join(', ')}` }
}

/** Asks a process to end, waits, and insists. */
async function endProcess (running) {
  const tree = treePids(running.pid)
  running.child.kill('SIGTERM')
  const insist = setTimeout(() => {
    for (const pid of hasProc ? tree : [running.pid]) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {} // it has ended meanwhile
    }
  }, leaveMs)
  await running.exited
  clearTimeout(insist)
}

export function createStage () {
  const folder = mkdtempSync(join(tmpdir(), 'fleet-bench-'))
  const place = placement()
  const living = new Set()
  let folders = 0

  // This process does little, but not on the proxy's processor.
  if (place.taskset !== undefined) spawnSync(place.taskset, ['-acp', place.others, String(process.pid)], { stdio: 'ignore' })

  process.on('exit', () => {
    for (const { pid } of living) {
      for (const id of hasProc ? treePids(pid).reverse() : [pid]) {
        try {
          process.kill(id, 'SIGKILL')
        } catch {} // it has ended meanwhile
      }
    }
    rmSync(folder, { recursive: true, force: true })
  })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1))

  return {
    /** What is pinned where, in words. */
    pinned: place.about,
    /** The processor that the proxy has to itself; undefined where nothing is pinned. */
    proxyCpu: place.proxy,
    folder,

    /** A new folder for one process's files. */
    makeFolder (name) {
      const made = join(folder, `${folders++}-${name.replaceAll(/[^\w-]/g, '-')}`)
      mkdirSync(made)
      return made
    },

    /**
     * Starts a program.
     * @param {string} command
     * @param {readonly string[]} args
     * @param {{ cwd?: string, env?: NodeJS.ProcessEnv, proxy?: boolean, ipc?: boolean, input?: string }} [options] `proxy`: on the processor that is measured
     */
    start (command, args, { cwd = folder, env = {}, proxy = false, ipc = false } = {}) {
      const pin = place.taskset === undefined ? [] : [place.taskset, '-c', proxy ? place.proxy : place.others]
      const [file, ...rest] = [...pin, command, ...args]
      // What node is told by whoever runs this (test runners, for one) is not meant for what is measured.
      const { NODE_OPTIONS, NODE_V8_COVERAGE, ...inherited } = process.env
      const child = spawn(file, rest, { cwd, env: { ...inherited, ...env }, stdio: ['ignore', 'pipe', 'pipe', ...(ipc ? ['ipc'] : [])] })
      let printed = ''
      const running = { pid: child.pid, child, cwd, printed: () => printed, ended: false }
      living.add(running)
      for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => { printed = (printed + chunk).slice(-200_000) })
      running.exited = new Promise(resolve => {
        child.once('error', error => resolve({ code: null, signal: null, error }))
        child.once('close', (code, signal) => resolve({ code, signal }))
      }).then(end => {
        running.ended = true
        living.delete(running)
        return end
      })
      return running
    },

    /** Resolves with what the pattern's first group matched in what a process printed. */
    async prints (running, pattern) {
      const late = AbortSignal.timeout(startMs)
      const look = () => pattern.exec(running.printed())?.[1]
      while (look() === undefined) {
        if (running.ended || late.aborted) throw new Error(`${running.ended ? 'it ended' : `not ready in ${startMs / 1_000} s`}: ${running.printed().trim().slice(-600)}`)
        await Promise.race([running.exited, delay(20)])
      }
      return look()
    },

    /** Resolves when a port of this machine takes connections. */
    async listens (running, port) {
      for (const late = AbortSignal.timeout(startMs); ;) {
        const taken = await new Promise(resolve => {
          const socket = connect(port, '127.0.0.1').once('connect', () => resolve(true)).once('error', () => resolve(false))
          socket.once('connect', () => socket.destroy())
        })
        if (taken) return
        if (running.ended || late.aborted) throw new Error(`${running.ended ? 'it ended' : `not ready in ${startMs / 1_000} s`}: ${running.printed().trim().slice(-600)}`)
        await delay(50)
      }
    },

    /** Resolves when a process and what it started have come to rest: less than 3 % of a processor in a second. */
    async rests ({ pid }, atMostMs = startMs) {
      if (!hasProc) return await delay(500)
      for (const from = performance.now(); performance.now() - from < atMostMs;) {
        const before = cpuSeconds(pid)
        await delay(1_000)
        if (cpuSeconds(pid) - before < 0.03) return
      }
    },

    /** Ends a process: asks, waits, insists; and takes away the folder it worked in, since logs of a long run are large. */
    async end (running) {
      if (!running.ended) await endProcess(running)
      if (running.cwd !== folder) rmSync(running.cwd, { recursive: true, force: true })
    },

    /** Ports that nobody listens on now, for programs that can't tell which they were given. */
    async freePorts (count) {
      const servers = await Promise.all(Array.from({ length: count }, async () => {
        const server = createServer().listen(0, '127.0.0.1')
        await once(server, 'listening')
        return server
      }))
      const ports = servers.map(server => server.address().port)
      await Promise.all(servers.map(server => new Promise(resolve => server.close(resolve))))
      return ports
    }
  }
}

/** The gateway of the soak as a process, seen from outside: what it prints, what it holds, how it ends. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const monitor = fileURLToPath(new URL('monitor.js', import.meta.url))

/** Lines of the log that say that something is wrong with the gateway itself, and not with a fleet.yaml that was spoiled on purpose. */
const wrongLine = /^\{"level":[56]0(?!.*"msg":"fleet\.yaml:)|could not take the reloaded|Looking at the fleet failed/

/** @param {{ main: string, folder: string }} place the built program, and the folder with fleet.yaml */
export async function startGateway ({ main, folder }) {
  const child = spawn(process.execPath, ['--import', monitor, main, 'serve', '--port', '0', '--no-auth', '--no-rate-limit'], { cwd: folder, stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
  /** What must not be: warnings of Node, defects, an end nobody asked for. */
  const faults = []
  let log = ''
  let unfinished = ''
  let ending = false
  const exited = new Promise(resolve => child.once('close', (code, signal) => resolve({ code, signal })))
  exited.then(({ code, signal }) => { if (!ending) faults.push(`the gateway ended with ${signal ?? code}: ${log.slice(-2_000)}`) })
  child.on('message', ({ warning }) => { if (warning !== undefined) faults.push(warning) })
  const origin = await new Promise((resolve, reject) => {
    child.stderr.on('data', chunk => {
      log = (log + chunk).slice(-100_000)
      const lines = (unfinished + chunk).split('\n')
      unfinished = lines.pop()
      faults.push(...lines.filter(line => wrongLine.test(line)).map(line => line.slice(0, 2_000)))
      const [, found] = /^Fleet Gateway on (http:\S+)[^]*try /m.exec(log) ?? []
      if (found !== undefined) resolve(found)
    })
    exited.then(() => reject(new Error(log)))
  })

  async function descriptors () {
    const names = await readdir(`/proc/${child.pid}/fd`).catch(() => [])
    const targets = await Promise.all(names.map(name => readlink(join(`/proc/${child.pid}/fd`, name)).catch(() => '')))
    return { files: targets.filter(target => target !== '').length, sockets: targets.filter(target => target.startsWith('socket:')).length }
  }

  return {
    origin,
    port: Number(new URL(origin).port),
    pid: child.pid,
    faults,
    /** The end of what it printed. */
    log: () => log,
    /** How many files it has open, and how many of them are sockets. */
    descriptors,
    /** Memory after a collection, timers, the longest pause of the event loop since the last reset; NaN of a process that has ended. */
    async figures ({ reset = false } = {}) {
      if (child.connected) child.send({ reset })
      for (;;) {
        const [{ figures }] = await Promise.race([once(child, 'message'), exited.then(() => [{ figures: { rssMiB: NaN, heapMiB: NaN, timers: NaN, pauseMs: NaN } }])])
        if (figures !== undefined) return figures
      }
    },
    signal: name => child.kill(name),
    /** Resolves with how it ended. */
    async end () {
      ending = true
      child.kill('SIGTERM')
      const late = setTimeout(() => child.kill('SIGKILL'), 45_000)
      const result = await exited
      clearTimeout(late)
      return result
    },
    /** At once. Resolves when it is gone. */
    async kill () {
      ending = true
      child.kill('SIGKILL')
      await exited
    }
  }
}

/** Puts load on a port, by wrk or by our own generator, and says what came of it in the same words. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseWrk, wrkScript } from './wrk.js'

const own = fileURLToPath(new URL('load.js', import.meta.url))

/**
 * @param {{ port: number, seconds: number, connections?: number, rate?: number, method?: string, paths: string[], headers: Record<string, string>, bodyBytes?: number }} task
 * @param {string} [wrk] its file; our own generator is used without it, and for a constant rate
 * @returns {Promise<{ requests: number, requestsPerSecond: number, p50: number, p99: number, failures: string[] }>} latencies in milliseconds
 */
export async function load (stage, task, wrk) {
  const result = wrk === undefined || task.rate !== undefined ? await byOwn(stage, task) : await byWrk(stage, task, wrk)
  return { ...result, requestsPerSecond: result.requests / result.seconds }
}

async function byWrk (stage, task, wrk) {
  const script = join(stage.makeFolder('wrk'), 'script.lua')
  writeFileSync(script, wrkScript(task))
  const running = stage.start(wrk, [
    '-t1', `-c${task.connections}`, `-d${task.seconds}s`, '--timeout', '10s', '--latency', '-s', script, `http://127.0.0.1:${task.port}${task.paths[0]}`
  ])
  await running.exited
  return parseWrk(running.printed())
}

async function byOwn (stage, task) {
  const running = stage.start(process.execPath, [own, JSON.stringify(task)])
  await running.exited
  let result
  try {
    result = JSON.parse(running.printed())
  } catch {
    throw new Error(`the load generator did not report: ${running.printed().trim().slice(0, 300)}`)
  }
  const { badStatus, badSocket, unanswered, short } = result
  const failures = [
    ...(badStatus > 0 ? [`${badStatus} answers were not 2xx`] : []),
    ...(badSocket > 0 ? [`socket errors: ${badSocket}`] : []),
    ...(unanswered > 0 ? [`${unanswered} requests had no answer`] : []),
    ...(short > 0 ? [`${short} requests could not be sent in time`] : []),
    ...(result.answered === 0 ? ['no request was answered'] : [])
  ]
  return { ...result, failures }
}

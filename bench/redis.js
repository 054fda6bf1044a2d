/** Starts what gateways share: a Redis that keeps nothing on the disk, so that it is the gateway that is measured. */
import { findProgram } from './stage.js'

/** Debian calls Valkey's by its own name; either will do. */
export const redisServer = findProgram('redis-server') ?? findProgram('valkey-server')

/**
 * @param {{ proxy?: boolean }} [options] `proxy`: on the processor that is measured
 * @returns {Promise<{ running: object, url: string }>}
 */
export async function startRedis (stage, options = {}) {
  const [port] = await stage.freePorts(1)
  const folder = stage.makeFolder('redis')
  const running = stage.start(redisServer, ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', '', '--appendonly', 'no'], { cwd: folder, ...options })
  await stage.listens(running, port)
  return { running, url: `redis://127.0.0.1:${port}` }
}

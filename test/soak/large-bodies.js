/**
 * A part of the soak that runs alone: one GiB up and down, checksums compared, while the gateway's memory is watched: it must not grow by
 * 64 MiB or more.
 */
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer, request } from 'node:http'
import { Readable } from 'node:stream'
import { ask } from './client.js'

const block = randomBytes(1024 * 1024)
const blocks = 1024
const mostGrowthMiB = 64

const bytes = function * () { for (let index = 0; index < blocks; index++) yield block }
const hashOf = async stream => {
  const hash = createHash('sha256')
  for await (const chunk of stream) hash.update(chunk)
  return hash.digest('hex')
}

/** Resident memory in MiB, from /proc. */
async function memoryOf (pid) {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+)/.exec(status)[1]) / 1024
}

/** @returns what was wrong, a line each */
export async function oneGibibyte (gateway, say) {
  const { origin, pid } = gateway
  const agent = createServer(async (incoming, response) => {
    if (incoming.method === 'GET') return Readable.from(bytes()).pipe(response)
    response.end(await hashOf(incoming))
  }).listen(0, '127.0.0.1')
  await once(agent, 'listening')
  await ask(gateway, 'POST', '/registry/register', { name: 'bulk', host: '127.0.0.1', port: agent.address().port })

  const sum = await hashOf(Readable.from(bytes()))
  const send = headers => new Promise((resolve, reject) => {
    const upload = request(`${origin}/api/bulk/`, { method: 'POST', headers }, response => { response.toArray().then(parts => resolve(Buffer.concat(parts).toString()), reject) })
    upload.on('error', reject)
    Readable.from(bytes()).pipe(upload)
  })
  const runs = [
    ['upload with a length', () => send({ 'content-length': String(blocks * block.length) })],
    ['upload in chunks', () => send({})],
    ['download', () => new Promise((resolve, reject) => { request(`${origin}/api/bulk/`, response => { hashOf(response).then(resolve, reject) }).on('error', reject).end() })]
  ]
  const problems = []
  const before = await memoryOf(pid)
  for (const [name, run] of runs) {
    let highest = 0
    const watch = setInterval(async () => { highest = Math.max(highest, await memoryOf(pid)) }, 50)
    const started = performance.now()
    const got = await run().catch(error => error.message)
    clearInterval(watch)
    const text = `${name}: ${blocks} MiB in ${((performance.now() - started) / 1000).toFixed(1)} s, checksum ${got === sum ? 'equal' : 'DIFFERENT'}, memory ${before.toFixed(0)} → at most ${highest.toFixed(0)} MiB`
    say(text)
    if (got !== sum || highest - before >= mostGrowthMiB) problems.push(text)
  }
  await ask(gateway, 'DELETE', '/registry/bulk')
  agent.closeAllConnections()
  agent.close()
  return problems
}

/**
 * `npm run soak`: sends one GiB up and down through a real gateway process, compares checksums, and watches its memory.
 * Exits 1 when a checksum differs or the gateway grew by 64 MiB or more.
 */
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url))
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

const agent = createServer(async (incoming, response) => {
  if (incoming.method === 'GET') return Readable.from(bytes()).pipe(response)
  response.end(await hashOf(incoming))
}).listen(0, '127.0.0.1')
await once(agent, 'listening')

const folder = await mkdtemp(join(tmpdir(), 'fleet-soak-'))
const gateway = spawn(process.execPath, [main, 'serve', '--port', '0', '--no-auth'], { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] })
let failed = false
try {
  const [line] = await once(gateway.stderr, 'data')
  const origin = /http:\S+/.exec(String(line))[0]
  await fetch(`${origin}/registry/register`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ name: 'bulk', host: '127.0.0.1', port: agent.address().port }) })

  const sum = await hashOf(Readable.from(bytes()))
  const send = headers => new Promise((resolve, reject) => {
    const upload = request(`${origin}/api/bulk/`, { method: 'POST', headers }, response => { response.toArray().then(parts => resolve(Buffer.concat(parts).toString()), reject) })
    Readable.from(bytes()).pipe(upload)
  })
  const runs = [
    ['upload with a length', () => send({ 'content-length': String(blocks * block.length) })],
    ['upload in chunks', () => send({})],
    ['download', () => new Promise((resolve, reject) => { request(`${origin}/api/bulk/`, response => { hashOf(response).then(resolve, reject) }).end() })]
  ]
  await fetch(`${origin}/health`)
  const before = await memoryOf(gateway.pid)
  for (const [name, run] of runs) {
    let highest = 0
    const watch = setInterval(async () => { highest = Math.max(highest, await memoryOf(gateway.pid)) }, 50)
    const started = performance.now()
    const got = await run()
    clearInterval(watch)
    const good = got === sum && highest - before < mostGrowthMiB
    failed ||= !good
    console.log(`${good ? 'ok    ' : 'FAILED'}  ${name}: ${blocks} MiB in ${((performance.now() - started) / 1000).toFixed(1)} s, checksum ${got === sum ? 'equal' : 'DIFFERENT'}, memory ${before.toFixed(0)} → at most ${highest.toFixed(0)} MiB`)
  }
} finally {
  gateway.kill('SIGTERM')
  await once(gateway, 'close')
  agent.close()
  await rm(folder, { recursive: true })
}
process.exit(failed ? 1 : 0)

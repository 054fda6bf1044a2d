/** A small part of `npm run soak` (CONTRIBUTING.md), through the same code: everything is looked at but memory, which needs longer. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const soak = fileURLToPath(new URL('soak/soak.js', import.meta.url))

t.test('while agents die, the file changes and clients come and go, nothing is lost, doubled, mixed up or left behind', async t => {
  const { NODE_OPTIONS, ...env } = process.env // its many processes are not measured for coverage
  const child = spawn(process.execPath, [soak, '--short', '--seconds', '5', '--seed', '1'], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => { child.kill('SIGTERM') })

  const [printed, complaints, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close') as Promise<[number | null]>])

  t.equal(code, 0, printed)
  t.equal(complaints, '')
  const requests = Number(/^requests +(\d+)$/m.exec(printed)?.[1])
  t.ok(requests > 0, `${requests} requests were judged`)
})

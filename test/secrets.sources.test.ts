/** The shared secret is nowhere where it must not be, from wherever it comes and however the process ends. secrets.test.ts has all other kinds. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { canaries } from './helpers/canaries.ts'
import { agents, request, send, serve, withToken, withWrongToken } from './helpers/secret-drill.ts'

t.test('the shared secret is in no output, answer or request, from wherever it comes and however the process ends', async t => {
  const net = canaries()
  const kinds = { flag: net.secret('--secret'), env: net.secret('FLEET_SECRET'), file: net.secret('FLEET_SECRET_FILE'), wrong: net.secret('a wrong token') }
  const ports = await agents(t, net)
  const yaml = `rateLimit: {enabled: false}\nagents:\n${Object.entries(ports).map(([name, port]) => `  - {name: ${name}, host: 127.0.0.1, port: ${port}, timeout: 200ms}`).join('\n')}\n`
  const folder = t.testdir({ flag: { 'fleet.yaml': yaml }, env: { 'fleet.yaml': yaml }, file: { 'fleet.yaml': yaml, 'secret.txt': `${kinds.file}\n` }, made: { 'fleet.yaml': yaml } })
  const table: [source: 'flag' | 'env' | 'file' | 'made', args: string[], env: Record<string, string>, end: NodeJS.Signals][] = [
    ['flag', ['--secret', kinds.flag], {}, 'SIGQUIT'],
    ['env', [], { FLEET_SECRET: kinds.env }, 'SIGTERM'],
    ['file', [], { FLEET_SECRET_FILE: 'secret.txt' }, 'SIGKILL'],
    ['made', [], {}, 'SIGINT']
  ]

  for (const [source, args, env, end] of table) {
    const cwd = join(folder, source)
    const gateway = await serve(t, net, args, cwd, env)
    const token = source === 'made' ? (await readFile(join(cwd, '.fleet/secret'), 'utf8')).trim() : kinds[source]
    await send(net, gateway.port, request('POST', '/registry/register', [`Authorization: Bearer ${token}`], '{"name":"kept","port":1}'))
    for (const bytes of [...withToken(token, 'nothing', 'nothing').slice(0, 14), ...withWrongToken(kinds.wrong).slice(0, 5)]) await send(net, gateway.port, bytes)
    gateway.child.kill(end)
    await gateway.ended

    if (source !== 'made') await net.gatherFiles('state', join(cwd, '.fleet'))
    else for (const place of ['standard output', 'standard error', 'answers', 'agent']) t.notOk(net.textOf(place).includes(token), `the secret that was made is not in ${place}`)
  }

  t.same(net.leaks(), [])
  t.match(net.textOf('standard output'), '"path":"/api/good/x"')
})

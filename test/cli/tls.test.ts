/** The command line with `server.tls`: a gateway as a process, and the commands that find it, or are told whom to believe. */
import t, { type Test } from 'tap'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { run } from '../../src/cli/program.ts'
import { certificates, withoutOpenssl, type Issued } from '../helpers/certificates.ts'
import { fakeIo } from '../helpers/fake-io.ts'
import { startGateway } from '../helpers/build-gateway.ts'
import { tlsAgent } from '../helpers/tls-agent.ts'
import { unmeasured } from '../helpers/unmeasured.ts'

const options = { skip: withoutOpenssl }

/** As `npm test` has built it. */
const main = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url))
const secret = 'fleet-secret-token'
const { FLEET_URL, FLEET_HOST, FLEET_PORT, FLEET_SECRET, FLEET_SECRET_FILE, FLEET_CA_FILE, NODE_EXTRA_CA_CERTS, ...inherited } = process.env

interface Ended { code: number, stdout: string, stderr: string }

function command (cwd: string, args: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
  return new Promise(resolve => {
    execFile(...unmeasured(process.execPath, main, ...args), { cwd, env: { ...inherited, FLEET_SECRET: secret, ...env }, timeout: 60_000 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr })
    })
  })
}

function fleetYaml ({ certFile, keyFile }: Pick<Issued, 'certFile' | 'keyFile'>, port = 0): string {
  return `server:\n  port: ${port}\n  tls:\n    certFile: ${certFile}\n    keyFile: ${keyFile}\n`
}

/** Starts `serve` in a folder and waits until it says what to try. */
async function serve (t: Test, cwd: string) {
  const child = spawn(...unmeasured(process.execPath, main, 'serve'), { cwd, env: { ...inherited, FLEET_SECRET: secret }, stdio: ['ignore', 'ignore', 'pipe'] })
  t.teardown(() => { child.kill('SIGKILL') })
  let said = ''
  const saying = (pattern: RegExp) => new Promise<RegExpExecArray>((resolve, reject) => {
    const look = () => {
      const found = pattern.exec(said)
      if (found === null) return
      child.stderr.off('data', look)
      resolve(found)
    }
    child.stderr.on('data', look)
    child.once('close', () => reject(new Error(said)))
    look()
  })
  child.stderr.on('data', (chunk: Buffer) => { said += chunk.toString() })
  const [, port] = await saying(/^Fleet Gateway on https:\/\/[^:]+:(\d+)[^]*try [^]*\n$/m)
  return { child, port: Number(port), said: () => said, saying }
}

async function commonNameAt (port: number, ca: string): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port, servername: 'localhost', ca })
  await once(socket, 'secureConnect')
  const { subject } = socket.getPeerCertificate()
  socket.destroy()
  return String(subject.CN)
}

t.test('serve speaks https and says so; the commands beside its file find and believe it, others as they are told', options, async t => {
  const cwd = t.testdir({ made: {}, elsewhere: {} })
  const authority = certificates(t, join(cwd, 'made'))
  const issued = authority.issue('gateway', { names: 'DNS:fleet.example' }) // not the name under which it is called here
  await writeFile(join(cwd, 'fleet.yaml'), fleetYaml(issued))
  const { port, said } = await serve(t, cwd)
  await writeFile(join(cwd, 'fleet.yaml'), fleetYaml(issued, port))
  const elsewhere = join(cwd, 'elsewhere')
  const url = `https://127.0.0.1:${port}`

  const [beside, byUrl, stranger, misnamed] = await Promise.all([
    command(cwd, ['health', '--json']),
    command(cwd, ['health', '--url', url]),
    command(elsewhere, ['health', '--url', url]),
    command(elsewhere, ['health', '--url', url, '--ca', authority.caFile])
  ])

  t.match(said(), new RegExp(`try +curl ${url}/health\n`))
  t.match(beside, { code: 0, stdout: /"status": "healthy"/, stderr: '' })
  t.match(byUrl, { code: 0, stdout: /^healthy/, stderr: '' }, 'as serve suggests it')
  t.match(stranger, { code: 1, stderr: /is not trusted: its certificate is from an unknown issuer[^]*--ca or FLEET_CA_FILE/ })
  t.match(misnamed, { code: 1, stderr: /is not trusted: its certificate is for another name: it names DNS:fleet\.example, and not 127\.0\.0\.1/ })
})

t.test('--ca, FLEET_CA_FILE and NODE_EXTRA_CA_CERTS name whom to believe', options, async t => {
  const cwd = t.testdir({ made: {}, elsewhere: {} })
  const authority = certificates(t, join(cwd, 'made'))
  await writeFile(join(cwd, 'fleet.yaml'), fleetYaml(authority.issue('gateway')))
  const { port } = await serve(t, cwd)
  const ask = (args: string[], env: Record<string, string> = {}) => command(join(cwd, 'elsewhere'), ['health', '--url', `https://127.0.0.1:${port}`, ...args], env)

  const [flag, variable, nodes, missing, plain] = await Promise.all([
    ask(['--ca', authority.caFile]), ask([], { FLEET_CA_FILE: authority.caFile }), ask([], { NODE_EXTRA_CA_CERTS: authority.caFile }), ask(['--ca', 'nowhere']),
    command(join(cwd, 'elsewhere'), ['health', '--url', `http://127.0.0.1:${port}`])
  ])

  for (const { code, stdout } of [flag, variable, nodes]) t.match([code, stdout], [0, /^healthy/])
  t.match(missing, { code: 1, stderr: /^--ca names a file that does not exist \(nowhere\)/ })
  t.match(plain, { code: 1, stderr: /This port speaks HTTPS/ })
})

t.test('another gateway at the address of the file is not taken for it', options, async t => {
  const cwd = t.testdir({ mine: {}, strangers: {} })
  const [mine, stranger] = [certificates(t, join(cwd, 'mine')), certificates(t, join(cwd, 'strangers'))]
  const other = await tlsAgent(t, stranger.issue('other'))
  await writeFile(join(cwd, 'fleet.yaml'), fleetYaml(mine.issue('gateway'), other.port))

  const asked = await command(cwd, ['agents'])

  t.match(asked, { code: 1, stderr: /is not trusted: its certificate is from an unknown issuer/ })
})

t.test('SIGHUP has a renewed certificate read, and a bad one is told', options, async t => {
  const cwd = t.testdir({ made: {} })
  const authority = certificates(t, join(cwd, 'made'))
  const [first, second] = [authority.issue('first'), authority.issue('second')]
  await writeFile(join(cwd, 'fleet.yaml'), fleetYaml(first))
  const { child, port, saying } = await serve(t, cwd)
  t.equal(await commonNameAt(port, authority.ca), 'first')

  await copyFile(second.keyFile, first.keyFile)
  child.kill('SIGHUP')
  await saying(/server\.tls\.keyFile is not the key of the certificate[^]*the one in use stays/)
  t.equal(await commonNameAt(port, authority.ca), 'first')
  await copyFile(second.certFile, first.certFile)
  child.kill('SIGHUP')
  await saying(/The certificate of server\.tls was loaded anew/)

  t.equal(await commonNameAt(port, authority.ca), 'second')
  const closed = once(child, 'close')
  child.kill('SIGTERM')
  t.equal((await closed)[0], 0)
})

t.test('check and serve say the same of bad files, with their places', options, async t => {
  const cwd = t.testdir({ made: {} })
  const authority = certificates(t, join(cwd, 'made'))
  const [one, other] = [authority.issue('one'), authority.issue('other')]
  await writeFile(join(cwd, 'fleet.yaml'), `${fleetYaml({ certFile: one.certFile, keyFile: other.keyFile })}agents:
  - name: planner
    port: 1
    protocol: https
    tls: {caFile: nowhere}
`)

  const [checked, served] = await Promise.all([command(cwd, ['check']), command(cwd, ['serve'])])

  for (const { code, stderr } of [checked, served]) {
    t.equal(code, 1)
    t.match(stderr, /^fleet\.yaml:5:14 server\.tls\.keyFile: is not the key of the certificate in certFile \([^)]+\)\nfleet\.yaml:10:19 agents\[0\]\.tls\.caFile: names a file that does not exist \(nowhere\)\n/)
  }
})

t.test('test says what is wrong with the certificate of an instance', options, async t => {
  const authority = certificates(t)
  const [expired, renamed] = [await tlsAgent(t, authority.issue('expired', { expired: true })), await tlsAgent(t, authority.issue('renamed', { names: 'DNS:other.example' }))]
  const foreign = await tlsAgent(t, authority.issue('foreign'))
  const { caFile } = authority
  const gateway = await startGateway(t, {
    agents: [
      { name: 'expired', port: expired.port, protocol: 'https', tls: { caFile } },
      { name: 'renamed', port: renamed.port, protocol: 'https', tls: { caFile } },
      { name: 'foreign', port: foreign.port, protocol: 'https' }
    ]
  })
  const terminal = fakeIo({ env: { FLEET_URL: gateway.origin } })

  const code = await run(['test', '--secret', secret], terminal.io)

  t.equal(code, 1)
  t.match(terminal.stdout(), /its certificate has expired \(CERT_HAS_EXPIRED\)\n +→ renew it/)
  t.match(terminal.stdout(), /its certificate is for another name \(ERR_TLS_CERT_ALTNAME_INVALID\)\n +→ register the agent under a name of its certificate, or say one as tls\.serverName/)
  t.match(terminal.stdout(), /its certificate is from an unknown issuer[^\n]*\n +→ name the certificate of its authority as tls\.caFile/)
})

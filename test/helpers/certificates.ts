/**
 * Certificates as a test needs them, made by the openssl command: an authority, and what it issues. Each call of certificates() is another
 * authority, so that what one issued is a stranger's to the other.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'

/** For a test's `skip`: false, or why it can't be run. */
export const withoutOpenssl = spawnSync('openssl', ['version']).status === 0 ? false : 'there is no openssl here to make certificates with'

/** A certificate with its key, as files and as text. */
export interface Issued {
  readonly certFile: string
  readonly keyFile: string
  readonly cert: string
  readonly key: string
}

interface Wish {
  /** As subjectAltName has them. @default DNS:localhost and IP:127.0.0.1 */
  names?: string
  /** It ran out yesterday. */
  expired?: boolean
  /** For the key's file. */
  passphrase?: string
}

export interface Authority {
  readonly caFile: string
  readonly ca: string
  /** @param name of its files, and its common name */
  issue (name: string, wish?: Wish): Issued
}

function openssl (cwd: string, ...args: string[]): void {
  const { status, stderr } = spawnSync('openssl', args, { cwd, encoding: 'utf8' })
  if (status !== 0) throw new Error(`openssl ${args.join(' ')}: ${stderr}`)
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1']

/** As `openssl ca` wants to have it: only that can give any dates. */
const caConfig = `[ca]
default_ca = it
[it]
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
`

/** @returns a folder that goes with the test; another one each time, unlike t.testdir() */
function newFolder (t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'fleet-certificates-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** An authority of the test's own, with its folder. */
export function certificates (t: Test, folder = newFolder(t)): Authority {
  const file = (name: string) => join(folder, name)
  writeFileSync(file('index.txt'), '')
  writeFileSync(file('ca.cnf'), caConfig)
  openssl(folder, 'req', '-x509', ...newKey, '-nodes', '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '30', '-subj', '/CN=An authority of a test')
  return {
    caFile: file('ca.pem'),
    ca: readFileSync(file('ca.pem'), 'utf8'),
    issue (name, { names = 'DNS:localhost,IP:127.0.0.1', expired = false, passphrase } = {}) {
      const [certFile, keyFile] = [file(`${name}.pem`), file(`${name}.key`)]
      const encryption = passphrase === undefined ? ['-nodes'] : ['-passout', `pass:${passphrase}`]
      openssl(folder, 'req', ...newKey, ...encryption, '-keyout', keyFile, '-out', `${name}.csr`, '-subj', `/CN=${name}`, '-addext', `subjectAltName=${names}`)
      const dates = expired ? ['-startdate', '20200101000000Z', '-enddate', '20200201000000Z'] : ['-days', '30']
      openssl(folder, 'ca', '-batch', '-notext', '-config', 'ca.cnf', '-cert', 'ca.pem', '-keyfile', 'ca.key', '-in', `${name}.csr`, '-out', certFile, ...dates)
      return { certFile, keyFile, cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') }
    }
  }
}

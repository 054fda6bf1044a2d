/** What is needed to reach Redis, from options and the files that they name. No password is ever part of a message. */
import type { RedisOptions as ClientOptions } from 'ioredis'
import type { ConnectionOptions } from 'node:tls'
import { redisUrlProblem } from '../../src/config-rules.ts'
import type { OptionError } from '../../src/options.ts'
import { readAuthorities, readKeyPair } from '../../src/tls-files.ts'
import { lineIn } from '../../src/token-file.ts'
import type { RedisOptions } from './options.ts'

/** Where the server is and how one gets in. */
export type Access = Pick<ClientOptions, 'host' | 'port' | 'db' | 'username' | 'password' | 'tls'>

/** Reads what the options name. @returns also what is wrong, at paths inside of the options; without a `url` there is no access, and nothing wrong */
export function readAccess ({ url, passwordFile, tls }: Pick<RedisOptions, 'url' | 'passwordFile' | 'tls'>): { access: Access | null, problems: OptionError[] } {
  if (url === undefined) return { access: null, problems: [] }
  const problems: OptionError[] = []
  const wrong = (path: string, message: string) => { problems.push({ path, message, at: 'value' }) }
  const urlProblem = redisUrlProblem(url)
  if (urlProblem !== undefined) {
    wrong('url', urlProblem)
    return { access: null, problems }
  }
  const { protocol, hostname, port, pathname, username, password } = new URL(url)
  const access: Access = { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? 6379 : Number(port), db: Number(pathname.slice(1)) }
  if (username !== '') access.username = decodeURIComponent(username)
  if (password !== '') access.password = decodeURIComponent(password)
  try {
    if (passwordFile !== undefined) access.password = lineIn(passwordFile)
  } catch (error) {
    wrong('passwordFile', (error as Error).message)
  }
  if (protocol === 'rediss:') access.tls = readTls(tls ?? {}, wrong)
  else if (tls !== undefined) wrong('tls', 'is for a url that begins with rediss://')
  return { access: problems.length === 0 ? access : null, problems }
}

function readTls ({ caFile, certFile, keyFile, passphraseFile, serverName, verify = true }: NonNullable<RedisOptions['tls']>, wrong: (path: string, message: string) => void): ConnectionOptions {
  if ((certFile === undefined) !== (keyFile === undefined)) wrong('tls', 'needs certFile and keyFile both, or neither')
  const authorities = caFile === undefined ? undefined : readAuthorities(caFile)
  const pair = certFile === undefined || keyFile === undefined ? undefined : readKeyPair({ certFile, keyFile, ...(passphraseFile !== undefined && { passphraseFile }) })
  for (const { key, message } of [...authorities?.problems ?? [], ...pair?.problems ?? []]) wrong(`tls.${key}`, message)
  return {
    ...(authorities?.value && { ca: authorities.value }),
    ...pair?.value,
    ...(serverName !== undefined && { servername: serverName }),
    rejectUnauthorized: verify
  }
}

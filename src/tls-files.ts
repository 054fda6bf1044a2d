/**
 * Certificates, keys and authorities in PEM files: reads them and says what is wrong with each, so that a mistake shows where the files are
 * named and not in the first handshake. No contents of a file are ever repeated.
 */
import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto'
import { createSecureContext } from 'node:tls'
import { readBounded } from './token-file.ts'

/** What a setting that names a file is called, in `server.tls` and in the `tls` of an agent. */
type FileKey = 'certFile' | 'keyFile' | 'passphraseFile' | 'caFile'

/** One file that is no good. */
export interface FileProblem {
  readonly key: FileKey
  /** What is wrong, and what to do. */
  readonly message: string
}

/** Names of a certificate's file, with the chain behind it, and of its key's. */
export interface KeyPairFiles {
  readonly certFile: string
  readonly keyFile: string
  /** For a key that is encrypted. */
  readonly passphraseFile?: string
}

/** A certificate, with its chain, and its key, as node:tls takes them. */
export interface KeyPair {
  readonly cert: string
  readonly key: string
  readonly passphrase?: string
}

/** Either what was asked for, or what is wrong with the files. */
export type Read<T> = { readonly value: T, readonly problems: readonly [] } | { readonly value: null, readonly problems: readonly FileProblem[] }

const certificates = /-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----[^-]+-----END (?:X509 |TRUSTED )?CERTIFICATE-----/g

/** Reads a certificate and its key, and sees whether they belong together. */
export function readKeyPair ({ certFile, keyFile, passphraseFile }: KeyPairFiles): Read<KeyPair> {
  const problems: FileProblem[] = []
  const cert = attempt(problems, 'certFile', () => readText(certFile))
  const chain = cert === undefined ? undefined : attempt(problems, 'certFile', () => chainIn(cert, certFile))
  const key = attempt(problems, 'keyFile', () => readText(keyFile))
  const passphrase = passphraseFile === undefined ? undefined : attempt(problems, 'passphraseFile', () => readText(passphraseFile).replace(/[\r\n]+$/, ''))
  const canOpen = key !== undefined && (passphraseFile === undefined || passphrase !== undefined)
  const privateKey = canOpen ? attempt(problems, 'keyFile', () => keyIn(key, keyFile, passphrase)) : undefined
  if (cert === undefined || chain === undefined || key === undefined || privateKey === undefined) return { value: null, problems }
  const pair = { cert, key, ...(passphrase !== undefined && { passphrase }) }
  attempt(problems, 'keyFile', () => {
    refuseStranger(chain, privateKey, keyFile)
    refuseUnusable(pair, certFile)
  })
  return problems.length > 0 ? { value: null, problems } : { value: pair, problems: [] }
}

/** Reads the certificates of authorities. */
export function readAuthorities (caFile: string): Read<string> {
  const problems: FileProblem[] = []
  const text = attempt(problems, 'caFile', () => readText(caFile))
  if (text !== undefined) attempt(problems, 'caFile', () => chainIn(text, caFile))
  return text === undefined || problems.length > 0 ? { value: null, problems } : { value: text, problems: [] }
}

/** When a certificate is not valid: a sentence about it, for a warning. Undefined while it is. @param pem the first one in it counts */
export function validityProblem (pem: string, now: Date): string | undefined {
  const { validFrom, validTo } = new X509Certificate(pem)
  if (now > new Date(validTo)) return `ran out on ${new Date(validTo).toISOString()}`
  return now < new Date(validFrom) ? `is not valid before ${new Date(validFrom).toISOString()}` : undefined
}

/** What OpenSSL has against a pair besides, as a key that is too short. */
function refuseUnusable (pair: KeyPair, certFile: string): void {
  try {
    createSecureContext(pair)
  } catch (error) {
    throw new Error(`can not be used with its certificate: ${(error as Error).message} (${certFile})`, { cause: error })
  }
}

/** What was read; undefined when that failed, which is one of the problems then. */
function attempt<T> (problems: FileProblem[], key: FileKey, read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    problems.push({ key, message: (error as Error).message })
    return undefined
  }
}

const readFailures: Record<string, string> = {
  ENOENT: 'names a file that does not exist',
  EACCES: 'can not be read by the gateway\'s user: permission denied',
  EISDIR: 'names a folder'
}

/** The authorities of a whole system take a quarter of this. */
const mostBytes = 1024 * 1024

function readText (file: string): string {
  try {
    return readBounded(file, mostBytes)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new Error(`${code === undefined ? message : readFailures[code] ?? `can not be read: ${code}`} (${file})`, { cause: error })
  }
}

/** The certificates of a text, at least one. */
function chainIn (text: string, file: string): X509Certificate[] {
  const found = text.match(certificates) ?? []
  if (found.length === 0) throw new Error(`holds no certificate in PEM form, which begins with "-----BEGIN CERTIFICATE-----" (${file})`)
  return found.map((pem, index) => {
    try {
      return new X509Certificate(pem)
    } catch (error) {
      throw new Error(`holds a certificate that is damaged${found.length === 1 ? '' : `, the one at place ${index + 1}`} (${file})`, { cause: error })
    }
  })
}

function keyIn (text: string, file: string, passphrase: string | undefined): KeyObject {
  if (!text.includes('PRIVATE KEY-----')) throw new Error(`holds no private key in PEM form, which begins with "-----BEGIN PRIVATE KEY-----" (${file})`)
  const isEncrypted = text.includes('ENCRYPTED')
  if (isEncrypted && passphrase === undefined) throw new Error(`is encrypted: name the file with its passphrase as passphraseFile (${file})`)
  try {
    return createPrivateKey({ key: text, ...(passphrase !== undefined && { passphrase }) })
  } catch (error) {
    throw new Error(isEncrypted ? `can not be decrypted with what is in passphraseFile (${file})` : `holds a private key that is damaged (${file})`, { cause: error })
  }
}

/** The key has to be that of the first certificate: the others only lead from it to an authority. */
function refuseStranger (chain: readonly X509Certificate[], key: KeyObject, keyFile: string): void {
  const place = chain.findIndex(certificate => certificate.checkPrivateKey(key))
  if (place === -1) throw new Error(`is not the key of the certificate in certFile (${keyFile})`)
  if (place > 0) throw new Error(`is the key of the certificate at place ${place + 1} in certFile, where it must be that of the first: its own certificate comes before the chain (${keyFile})`)
}

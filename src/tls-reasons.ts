/**
 * Why there is no TLS with an instance, in words for the log: Node's own are longer, and others with each version. Clients are told the kind alone.
 */

/** RFC 9209 §2.3: what is told to clients in `Proxy-Status`. */
export type TlsErrorType = 'tls_certificate_error' | 'tls_alert_received' | 'tls_protocol_error'

/** By Node's code of the error. */
const certificateReasons: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'its certificate has expired',
  CERT_NOT_YET_VALID: 'its certificate is not valid yet',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another name',
  HOSTNAME_MISMATCH: 'its certificate is for another name',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is self-signed, so from an unknown issuer',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate is from an unknown issuer',
  UNABLE_TO_GET_ISSUER_CERT: 'its certificate is from an unknown issuer',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'its certificate is from an unknown issuer',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate is from an unknown issuer, or comes without its chain',
  INVALID_PURPOSE: 'its certificate is not meant for a server',
  CERT_REVOKED: 'its certificate was revoked',
  CERT_SIGNATURE_FAILURE: 'the signature of its certificate is wrong',
  CERT_UNTRUSTED: 'its certificate is not trusted',
  CERT_REJECTED: 'its certificate is not trusted',
  INVALID_CA: 'its certificate was issued by one that may not issue any'
}

/** What is wrong with a certificate, by Node's code of the error; undefined when the code is about something else. */
export function certificateProblem (code: string): string | undefined {
  return Object.hasOwn(certificateReasons, code) ? certificateReasons[code] : undefined
}

interface TlsError extends Error {
  readonly code?: string
  /** Of a wrong name: what the certificate was looked at for, and what it names. */
  readonly host?: string
  readonly cert?: { readonly subjectaltname?: string }
}

/** The kind of failure; undefined when the error is not about TLS. */
export function tlsErrorType (error: unknown): TlsErrorType | undefined {
  if (!(error instanceof Error)) return undefined
  const { code = '' } = error as TlsError
  if (certificateProblem(code) !== undefined || code === 'FLEET_TLS_FILES') return 'tls_certificate_error'
  if (!isProtocolCode(code)) return undefined
  return isAlert(error) ? 'tls_alert_received' : 'tls_protocol_error'
}

/** What happened, with the code for whoever looks it up; undefined when the error is not about TLS. */
export function tlsReason (error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  const { code = '', host, cert, message } = error as TlsError
  if (code === 'FLEET_TLS_FILES') return message
  const reason = certificateProblem(code)
  if (reason !== undefined) return `${reason}${cert === undefined || host === undefined ? '' : `: it names ${shorten(cert.subjectaltname ?? 'none')}, and not ${host}`} (${code})`
  if (!isProtocolCode(code)) return undefined
  const detail = opensslReason(message)
  if (/certificate.?required/i.test(detail)) return `it asks for a client certificate (${detail})`
  if (isAlert(error)) return `it refused the TLS connection (${detail})`
  return /wrong version number|packet length too long/i.test(detail) ? `it does not speak TLS (${detail})` : `there is no TLS with it (${detail})`
}

/** Node 20 has EPROTO for most failures of OpenSSL's, later ones a code for each. */
function isProtocolCode (code: string): boolean {
  return code === 'EPROTO' || code.startsWith('ERR_SSL_') || code.startsWith('ERR_OSSL_')
}

function isAlert ({ message, code }: TlsError): boolean {
  return /\balert\b/i.test(message) || /_ALERT_/.test(code ?? '')
}

/** `…:error:0A000412:SSL routines:ssl3_read_bytes:sslv3 alert bad certificate:../deps/…` → `sslv3 alert bad certificate` */
function opensslReason (message: string): string {
  return /SSL routines:[^:]*:([^:]+)/.exec(message)?.[1] ?? message.trim()
}

const mostNames = 200

/** A certificate says what it likes, and the log has to stay one. */
function shorten (names: string): string {
  const plain = names.replace(/[^\x20-\x7e]/g, '?')
  return plain.length > mostNames ? `${plain.slice(0, mostNames)}…` : plain
}

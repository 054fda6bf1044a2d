/**
 * What a failed test means, and what to do about it.
 */
import type { RedisState } from '../../plugins/registry/registrations.ts'
import type { ProbeOutcome } from '../fleet/outlier.ts'
import { certificateProblem } from '../tls-reasons.ts'

/** The answer of `POST /registry/{name}/instances/{id}/probe`. */
export interface ProbeAnswer {
  ok: boolean
  outcome: ProbeOutcome
  /** Null when no response head came. */
  status: number | null
  /** Node's code of the failure, where there is one. */
  cause: string | null
  path: string
  latency_ms: number
}

function certificateAdvice (code: string): string {
  if (code === 'CERT_HAS_EXPIRED' || code === 'CERT_NOT_YET_VALID') return 'renew it, or correct the clock of one of the machines'
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID' || code === 'HOSTNAME_MISMATCH') return 'register the agent under a name of its certificate, or say one as tls.serverName of the agent in fleet.yaml'
  return 'name the certificate of its authority as tls.caFile of the agent in fleet.yaml, and have the agent send its whole chain'
}

/** For an answer that is not ok. */
export function adviceFor ({ outcome, status, cause, path }: ProbeAnswer, address: string, protocol: string): { problem: string, advice: string } {
  if (status !== null) return { problem: `GET ${path} is answered with ${status}`, advice: status === 404 ? 'is health.path right? Correct it in fleet.yaml, or leave it out to probe by connection' : 'the agent is there and says that it is not well: see its log' }
  if (outcome === 'timeout') return { problem: `no answer from ${address} in time`, advice: 'is it busy, or a firewall between? health.timeout sets how long the gateway waits' }
  const code = cause ?? ''
  switch (code) {
    case 'ECONNREFUSED':
      return { problem: `nothing listens at ${address}`, advice: 'start the agent, or correct its host and port (in a container, localhost is the container itself)' }
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return { problem: `the host of ${address} has no address where the gateway runs`, advice: 'correct the host, or the name service there' }
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
      return { problem: `there is no way from the gateway to ${address}`, advice: 'correct the host, or the network between them' }
    case 'FLEET_ADDRESS_REFUSED':
      return { problem: `the host of ${address} resolves to an address that registrations may not name`, advice: 'write the agent into fleet.yaml, or widen registry.allowedHosts' }
    case 'ECONNRESET':
      return { problem: `${address} closes the connection without an answer`, advice: protocol === 'http' ? 'is it the right port? If the agent speaks TLS, set protocol: https' : 'is it the right port, and does the agent speak TLS?' }
  }
  if (code.startsWith('HPE_')) return { problem: `what listens at ${address} does not speak HTTP`, advice: protocol === 'http' ? 'correct the port; if the agent speaks TLS, set protocol: https' : 'correct the port' }
  if (code === 'EPROTO' || code.startsWith('ERR_SSL')) return { problem: `${address} does not speak TLS, or no version of it that the gateway takes (${code})`, advice: 'if it speaks plain HTTP, set protocol: http' }
  const certificate = certificateProblem(code)
  if (certificate !== undefined) return { problem: `${address}: ${certificate} (${code})`, advice: certificateAdvice(code) }
  if (/CERT|SIGNATURE|ALTNAME/.test(code)) return { problem: `the certificate of ${address} is not to be trusted (${code})`, advice: 'give the agent a certificate that the gateway\'s machine trusts, for the name it is registered under (NODE_EXTRA_CA_CERTS names more authorities)' }
  return { problem: `${address} can't be asked${code === '' ? '' : ` (${code})`}`, advice: 'see the gateway\'s log' }
}

/** For a Redis that is not well. */
export function redisAdvice (state: RedisState): string {
  return state === 'away'
    ? 'is it running, and are redis.url and its password right? The gateway\'s log says what it met'
    : 'is it full, or does it follow another one? The gateway\'s log says; when it was away, this is over in a moment'
}

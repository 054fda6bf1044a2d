/**
 * What a host may be: the syntax for everybody, and for registrations, whose author may be hostile, where they may not aim the gateway.
 * Judges what is written; what a name resolves to is judged by whoever resolves it, with the same functions.
 */
import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net'

const labelPattern = /^[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$/

/** What is wrong with the form of `host`, as a predicate ("must …"); undefined when it is a bare host name or an IP literal. */
export function hostProblem (host: string): string | undefined {
  if (host === '') return 'must not be empty'
  if (/\s/.test(host)) return 'must not contain spaces'
  if (/[/\\?#@]/.test(host)) return 'must be a bare host name or IP address, without scheme, user or path'
  if (host.includes('%')) return 'must be without a zone id'
  if (isIP(host) !== 0) return undefined
  if (/[[\]]/.test(host)) return 'must be an IPv6 address without brackets'
  if (/^[^:]*:\d*$/.test(host)) return 'must be without a port'
  if (host.includes(':')) return 'must be a valid IPv6 address'
  const labels = host.replace(/\.$/, '').split('.')
  if (host.length > 253 || !labels.every(label => labelPattern.test(label))) return 'must be a valid host name or IP address'
  return undefined
}

/** One spelling for each host: lower case, no dot at the end, and IPv6 as RFC 5952 has it, so that a known instance is recognised. */
export function canonicalHost (host: string): string {
  if (!isIPv6(host) || host.includes('%')) return host.toLowerCase().replace(/\.$/, '')
  return new URL(`http://[${host}]`).hostname.slice(1, -1)
}

/**
 * Names under which clouds and orchestrators hand out credentials. Most lead to an address that is refused anyway; here they are refused
 * before anybody has to resolve them.
 */
const metadataNames = new Set([
  'metadata', 'metadata.google.internal', 'metadata.goog', 'metadata.tencentyun.com', 'metadata.packet.net', 'metadata.platformequinix.com', 'api.metadata.cloud.ibm.com',
  'instance-data', 'rancher-metadata', 'rancher-metadata.rancher.internal'
])

function isMetadataName (name: string): boolean {
  return metadataNames.has(name) || name.startsWith('instance-data.') // instance-data.ec2.internal, instance-data.eu-west-1.compute.internal
}

const refusals: readonly { reason: string, ranges: readonly string[] }[] = [
  {
    // Those of IPv4 that are link-local everywhere are below. Of Amazon all that is local to a machine: credentials of pods and containers, too.
    reason: 'must not be a cloud metadata address',
    ranges: [
      '169.254.169.254', '100.100.100.200', '168.63.129.16', '192.0.0.192',
      'fd00:ec2::/32', 'fd20:ce::254', 'fd00:c1::a9fe:a9fe', 'fd00:42::42', 'fd00:a9fe:a9fe::1'
    ]
  },
  { reason: 'must not be a link-local address', ranges: ['169.254.0.0/16', 'fe80::/10'] },
  { reason: 'must not be an unspecified address', ranges: ['0.0.0.0/8', '::'] },
  { reason: 'must not be a multicast address', ranges: ['224.0.0.0/4', 'ff00::/8'] },
  { reason: 'must not be a broadcast or reserved address', ranges: ['240.0.0.0/4'] },
  {
    // Mapped, compatible, NAT64, Teredo and 6to4: each reaches the IPv4 address inside, past the rules for it.
    reason: 'must not be an IPv6 address with an IPv4 address inside',
    ranges: ['::ffff:0:0/96', '::ffff:0:0:0/96', '::/96', '64:ff9b::/96', '64:ff9b:1::/48', '2001::/32', '2002::/16']
  }
]

const refused = refusals.map(({ reason, ranges }) => ({ reason, has: rangeTest(ranges) }))

export interface RegistrationHostRules {
  /** Exact names and addresses, suffixes such as `.internal`, CIDRs; everything that is not refused anyway when left out. */
  allowedHosts?: readonly string[]
}

/**
 * Why a registration may not name `host`, as a predicate ("must not …"); undefined when it may. Loopback and private addresses are fine.
 * With `allowedHosts` a name passes by name or suffix only, an address by itself or a CIDR.
 */
export function registrationHostProblem (host: string, { allowedHosts }: RegistrationHostRules = {}): string | undefined {
  const syntax = hostProblem(host)
  if (syntax !== undefined) return syntax
  const name = canonicalHost(host)
  if (isIP(name) !== 0) {
    const reason = addressProblem(name)
    if (reason !== undefined) return reason
  } else {
    // What getaddrinfo() and URLs take for IPv4 in another form: 2130706433, 0x7f.1, 127.1, 010.0.0.1 (WHATWG URL, "ends in a number").
    if (/(?:^|\.)(?:\d+|0x[0-9a-f]*)$/.test(name)) return 'must be an IPv4 address in its usual form, or a name whose last part is not a number'
    if (isMetadataName(name)) return 'must not be a cloud metadata address'
  }
  if (allowedHosts === undefined || isAllowed(name, allowedHosts)) return undefined
  return 'must be among registry.allowedHosts'
}

/** Whether a registration may not lead to `ip`, written out or resolved from a name. What is no IP address is refused too. */
export function isRefusedAddress (ip: string): boolean {
  return isIP(ip) === 0 || ip.includes('%') || addressProblem(canonicalHost(ip)) !== undefined
}

/**
 * Why the gateway may not connect to `ip`, to which the host of a registration resolved; undefined when it may. Where `allowedHosts` has
 * addresses or CIDRs, it must be among those; names and suffixes say nothing about addresses.
 */
export function resolvedAddressProblem (ip: string, { allowedHosts = [] }: RegistrationHostRules = {}): string | undefined {
  if (isRefusedAddress(ip)) return isIP(ip) === 0 ? 'must be an IP address' : addressProblem(canonicalHost(ip)) ?? 'must be without a zone id'
  const ranges = allowedHosts.filter(isAddressRange)
  return ranges.length === 0 || rangeTest(ranges)(ip) ? undefined : 'must be among registry.allowedHosts'
}

const loopbackNames = new Set(['localhost', 'localhost.localdomain', 'localhost4', 'localhost6', 'ip6-localhost', 'ip6-loopback'])

/** Whether `host` is a name of the loopback interface: by RFC 6761 §6.3, or in the hosts files of the common systems. */
export function isLoopbackName (host: string): boolean {
  const name = canonicalHost(host)
  return loopbackNames.has(name) || name.endsWith('.localhost')
}

/** Whether `ip` is an address of the loopback interface. What is no IP address is none. */
export function isLoopbackAddress (ip: string): boolean {
  return isIPv4(ip) ? ip.startsWith('127.') : isIPv6(ip) && canonicalHost(ip) === '::1'
}

const isOfNobody = rangeTest(['0.0.0.0/8', '224.0.0.0/4', '240.0.0.0/4', '::/128', 'ff00::/8'])

/** Whether nothing can listen there: an unspecified address, which would be one of this machine, or one of many or of nobody. */
export function isNobodysAddress (ip: string): boolean {
  return isOfNobody(ip)
}

/** Why a registration may not lead to this IP address, in its canonical form; undefined when it may. */
function addressProblem (address: string): string | undefined {
  if (address === '::1') return undefined // inside ::/96, and nothing but loopback
  return refused.find(({ has }) => has(address))?.reason
}

function isAllowed (name: string, allowedHosts: readonly string[]): boolean {
  if (isIP(name) !== 0) return rangeTest(allowedHosts.filter(isAddressRange))(name)
  return allowedHosts.map(allowed => allowed.toLowerCase().replace(/\.$/, '')).some(allowed => allowed.startsWith('.') ? name.endsWith(allowed) && name !== allowed : name === allowed)
}

/** What is wrong with an entry of `allowedHosts`; undefined when it is a name, a suffix, an address or a CIDR. */
export function allowedHostProblem (entry: string): string | undefined {
  if (entry.includes('/')) return isAddressRange(entry) ? undefined : 'must be a valid CIDR such as "10.0.0.0/8"'
  return hostProblem(entry.replace(/^\./, '')) === undefined ? undefined : 'must be a host name, a suffix such as ".internal", an IP address or a CIDR'
}

/** Whether `text` is an IP address or a CIDR such as `10.0.0.0/8`. */
export function isAddressRange (text: string): boolean {
  const { address, bits } = splitRange(text)
  const family = isIP(address)
  return family !== 0 && !address.includes('%') && (bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128)))
}

function splitRange (text: string): { address: string, bits: string | undefined } {
  const slash = text.indexOf('/')
  return slash === -1 ? { address: text, bits: undefined } : { address: text.slice(0, slash), bits: text.slice(slash + 1) }
}

/** A test for whether an IP address is in one of the ranges. */
function rangeTest (ranges: readonly string[]): (address: string) => boolean {
  // One list for each family: a single BlockList also applies ::ffff:0:0/96 to plain IPv4.
  const lists = { ipv4: new BlockList(), ipv6: new BlockList() }
  for (const range of ranges) {
    const { address, bits } = splitRange(range)
    const family = isIPv4(address) ? 'ipv4' : 'ipv6'
    lists[family].addSubnet(address, Number(bits ?? (family === 'ipv4' ? 32 : 128)), family)
  }
  return address => {
    const family = isIPv4(address) ? 'ipv4' : 'ipv6'
    return lists[family].check(address, family)
  }
}

/**
 * Which ports of this machine's loopback are listened on, and by whom. On Linux the kernel's tables tell, so that nobody is disturbed; elsewhere
 * only trying tells, and what is tried is a short list of usual ports.
 */
import { readFile, readdir, readlink } from 'node:fs/promises'
import { basename } from 'node:path'

/** A port, the loopback addresses at which it may be reached, the likelier first, and the process behind it where that can be known. */
export interface Listener {
  readonly port: number
  readonly hosts: readonly string[]
  readonly process?: string
}

/** Ports, both ends included. */
export interface PortRange {
  readonly from: number
  readonly to: number
}

const v4 = '127.0.0.1'
const v6 = '::1'

/** Where development servers and agents usually are; tried where the system has no tables. */
const usualPorts: readonly PortRange[] = [
  { from: 3000, to: 3010 }, { from: 4000, to: 4010 }, { from: 5000, to: 5010 }, { from: 7000, to: 7010 }, { from: 7860, to: 7870 }, { from: 8000, to: 8100 },
  { from: 8500, to: 8520 }, { from: 8880, to: 8890 }, { from: 9000, to: 9020 }, { from: 9999, to: 10_010 }, { from: 11_434, to: 11_434 }
]

/** What never speaks HTTP there and writes strange requests into its log: ssh, mail, DNS, databases, queues. Asked only when somebody names them. */
const neverHttp = new Set([22, 25, 53, 110, 143, 389, 465, 587, 993, 995, 1433, 1521, 1883, 2181, 3306, 4222, 5432, 5672, 6379, 6432, 9042, 9092, 11_211, 27_017])

/**
 * Everybody who listens on loopback, by port.
 * @param ranges only these, all of them; the tables' own choice when left out
 * @param proc where Linux has its tables
 */
export async function listenersOnLoopback (ranges?: readonly PortRange[], proc = '/proc'): Promise<Listener[]> {
  const listed = await listedBySystem(proc)
  const wanted = (port: number) => ranges === undefined ? !neverHttp.has(port) : ranges.some(({ from, to }) => port >= from && port <= to)
  if (listed !== undefined) return listed.filter(({ port }) => wanted(port))
  const ports = (ranges ?? usualPorts).flatMap(({ from, to }) => Array.from({ length: to - from + 1 }, (_, index) => from + index))
  return [...new Set(ports)].filter(wanted).map(port => ({ port, hosts: [v4, v6] }))
}

interface TableLine {
  readonly host: string
  readonly port: number
  readonly inode: string
}

/** Undefined where the system has no such tables. */
async function listedBySystem (proc: string): Promise<Listener[] | undefined> {
  const tables = await Promise.all(['tcp', 'tcp6'].map(name => readFile(`${proc}/net/${name}`, 'utf8').catch(() => undefined)))
  if (tables[0] === undefined) return undefined // tcp6 is missing where there is no IPv6
  const lines = tables.flatMap(table => (table ?? '').split('\n').flatMap(line => readLine(line) ?? []))
  const processes = await processesOf(new Set(lines.map(({ inode }) => inode)), proc)
  const byPort = new Map<number, { hosts: Set<string>, process: string | undefined }>()
  for (const { host, port, inode } of lines) {
    const listener = byPort.get(port) ?? { hosts: new Set(), process: undefined }
    for (const reachable of reachableAt(host)) listener.hosts.add(reachable)
    listener.process ??= processes.get(inode)
    byPort.set(port, listener)
  }
  const inOrder = [...byPort].sort(([a], [b]) => a - b)
  return inOrder.map(([port, { hosts, process }]) => ({ port, hosts: [...hosts].sort(byLikelihood), ...(process !== undefined && { process }) }))
}

/** `sl local_address rem_address st … inode`, addresses in hexadecimal as the machine has them in memory. */
function readLine (line: string): TableLine | undefined {
  const fields = line.trim().split(/\s+/)
  const [, digits = '', portDigits = ''] = /^([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4})$/.exec(fields[1] ?? '') ?? []
  const listens = fields[3] === '0A'
  const host = hostOf(digits)
  return listens && host !== undefined ? { host, port: parseInt(portDigits, 16), inode: fields[9] ?? '' } : undefined
}

/** An address of the table, if it is loopback's or everybody's. */
function hostOf (digits: string): string | undefined {
  // Of each group of four bytes the last comes first (on all machines that Node runs on but s390x, where nothing is found here).
  const bytes = digits.match(/.{8}/g)?.flatMap(word => word.match(/../g)!.reverse().map(byte => parseInt(byte, 16))) ?? []
  const mapped = bytes.length === 16 && bytes.slice(0, 10).every(byte => byte === 0) && bytes[10] === 0xff && bytes[11] === 0xff
  const four = mapped ? bytes.slice(12) : bytes
  if (four.length === 4) return four[0] === 127 ? four.join('.') : four.every(byte => byte === 0) ? '0.0.0.0' : undefined
  if (bytes.length !== 16 || !bytes.slice(0, 15).every(byte => byte === 0)) return undefined
  return bytes[15] === 0 ? '::' : bytes[15] === 1 ? v6 : undefined
}

/** Who listens on `::` may or may not take IPv4, too; asking tells. */
function reachableAt (host: string): string[] {
  return host === '0.0.0.0' ? [v4] : host === '::' ? [v4, v6] : [host]
}

/** The usual address first, other IPv4 ones next. */
function byLikelihood (a: string, b: string): number {
  const rank = (host: string) => host === v4 ? 0 : host === v6 ? 2 : 1
  return rank(a) - rank(b) || a.localeCompare(b)
}

/**
 * The names of the processes that hold these sockets, by inode: those of other users stay unknown. Only the name, since the rest of a command
 * line may hold secrets.
 */
async function processesOf (inodes: ReadonlySet<string>, proc: string): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  const ids = (await readdir(proc).catch(() => [])).filter(name => /^\d+$/.test(name))
  for (const id of ids) {
    const files = await readdir(`${proc}/${id}/fd`).catch(() => [])
    const held = await Promise.all(files.map(async file => /^socket:\[(\d+)\]$/.exec(await readlink(`${proc}/${id}/fd/${file}`).catch(() => ''))?.[1] ?? ''))
    const listening = held.filter(inode => inodes.has(inode) && !found.has(inode))
    if (listening.length === 0) continue
    const name = await readFile(`${proc}/${id}/comm`, 'utf8').catch(() => '')
    if (name.trim() !== '') for (const inode of listening) found.set(inode, basename(name.trim()))
  }
  return found
}

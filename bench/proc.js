/** What Linux says of a process and all that it started: processor time and resident memory. Elsewhere there is nothing to say. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'

/** Whether processor time and memory can be read here. */
export const hasProc = existsSync('/proc/self/stat')

/** USER_HZ, the unit of times in /proc/PID/stat: 100 a second on every Linux that Node runs on. */
const ticksPerSecond = 100

/**
 * One line of /proc/PID/stat (proc(5)). The name, in parentheses, may itself have spaces and parentheses.
 * @returns {{ pid: number, parent: number, ticks: number }} `ticks` with those of children that have ended and were waited for
 */
export function parseStat (line) {
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ')
  const [utime, stime, cutime, cstime] = fields.slice(11, 15).map(Number)
  return { pid: Number.parseInt(line, 10), parent: Number(fields[1]), ticks: utime + stime + cutime + cstime }
}

/**
 * A process and its descendants, of all there are.
 * @param {readonly { pid: number, parent: number }[]} processes
 */
export function treeOf (pid, processes) {
  const tree = processes.filter(process => process.pid === pid)
  for (const { pid: parent } of tree) tree.push(...processes.filter(process => process.parent === parent)) // grows while it is walked
  return tree
}

/** Numbers of a list such as `0-2,5`, which is how /proc and taskset name processors. */
export function parseCpuList (list) {
  return list.trim().split(',').filter(part => part !== '').flatMap(part => {
    const [first, last = first] = part.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, index) => first + index)
  })
}

/**
 * Seconds that one processor has worked for processes, and those that the machine around a virtual one took from it, by /proc/stat; interrupts
 * are left out, since they belong to nobody. NaN of a processor that is not there.
 */
export function parseCpuTime (stat, cpu) {
  const [, line = ''] = new RegExp(`^cpu${cpu} +(.*)$`, 'm').exec(stat) ?? []
  const [user, nice, system, , , , , steal] = line === '' ? [NaN] : line.split(' ').map(Number)
  return (user + nice + system + steal) / ticksPerSecond
}

/** The same of this machine, now. */
export const cpuTime = cpu => parseCpuTime(read('/proc/stat'), cpu)

/** The processors that this process may use. */
export function allowedCpus () {
  const [, list = ''] = /^Cpus_allowed_list:\s*(.*)$/m.exec(read('/proc/self/status')) ?? []
  return parseCpuList(list)
}

/** The text of a file; nothing when it is gone, as it is for a process that has just ended. */
function read (file) {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

/** A process and its descendants, as they are now. */
function livingTree (pid) {
  if (!hasProc) return []
  const lines = readdirSync('/proc').filter(name => /^\d+$/.test(name)).map(name => read(`/proc/${name}/stat`))
  return treeOf(pid, lines.filter(line => line !== '').map(parseStat))
}

/** Ids of a process and its descendants, itself first. */
export const treePids = pid => livingTree(pid).map(process => process.pid)

/** Seconds of processor time that a process and its descendants have used. */
export const cpuSeconds = pid => hasProc ? livingTree(pid).reduce((sum, { ticks }) => sum + ticks, 0) / ticksPerSecond : NaN

/** Resident memory of a process and its descendants, KiB. Pages that several share count for each. */
export function residentKiB (pid) {
  if (!hasProc) return NaN
  return treePids(pid).reduce((sum, id) => {
    // smaps_rollup is exact; VmRSS may be some dozen pages a thread behind.
    const [, kib = 0] = /^Rss:\s*(\d+)/m.exec(read(`/proc/${id}/smaps_rollup`)) ?? /^VmRSS:\s*(\d+)/m.exec(read(`/proc/${id}/status`)) ?? []
    return sum + Number(kib)
  }, 0)
}

import { readFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { descendantsOf } from './processes.mjs'

const TICK_MS = 10
const cores = cpus().length

/**
 * Which share of the machine others use from now on, until the returned function is called: what the kernel counts as
 * busy, less this process, its children and what they started. Interrupts belong to nobody and are left out.
 */
export function watchOthers() {
  const before = reading()
  const startedAt = performance.now()
  return () => {
    const after = reading()
    const elapsed = performance.now() - startedAt
    return Math.max(0, (after.busy - before.busy - (after.own - before.own)) * TICK_MS) / (elapsed * cores)
  }
}

function reading() {
  const [user, nice, system] = readFileSync('/proc/stat', 'utf8')
    .split('\n')[0]
    .split(/\s+/)
    .slice(1)
    .map(Number)
  // Children that have ended, as the load generator, are in the sums of the one that waited for them.
  const own = [process.pid, ...descendantsOf(process.pid)].reduce((sum, pid) => sum + ticksOf(pid), 0)
  return { busy: user + nice + system, own }
}

function ticksOf(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0)
  } catch {
    return 0
  }
}

/** What a worker has written down; lists of three: key, version, time by the machine's monotonic clock in ms. */
export interface WorkerLog {
  index: number
  reads: number[]
  confirmed: number[]
  finals: (number | null)[]
  loads: number
  errors: number
  unconfirmed: number
  operations: number
  misses: number
  /** Errors that nobody caught: each would have ended the process. */
  fatal: string[]
}

export interface Verdict {
  operations: number
  reads: number
  misses: number
  writes: number
  loads: number
  errors: number
  unconfirmed: number
  fatal: number
  /** Reads of what was older than something confirmed when they began. */
  old: number
  /** … and confirmed longer ago than the bound. */
  beyond: number
  /** … and confirmed by the same worker. */
  own: number
  worstMs: number
  /** Keys that a worker still had older than the last confirmed version when all was quiet, over all workers. */
  unequal: number
}

/** Versions of a key only grow, and are confirmed in their order. */
export function judge(logs: readonly WorkerLog[], boundMs: number): Verdict {
  const confirmed = new Map<number, { version: number; at: number; by: number }[]>()
  const verdict: Verdict = {
    operations: 0,
    reads: 0,
    misses: 0,
    writes: 0,
    loads: 0,
    errors: 0,
    unconfirmed: 0,
    fatal: 0,
    old: 0,
    beyond: 0,
    own: 0,
    worstMs: 0,
    unequal: 0,
  }
  for (const log of logs) {
    for (const name of ['operations', 'misses', 'loads', 'errors', 'unconfirmed'] as const)
      verdict[name] += log[name]
    verdict.fatal += log.fatal.length
    verdict.reads += log.reads.length / 3
    verdict.writes += log.confirmed.length / 3
    for (let i = 0; i < log.confirmed.length; i += 3) {
      const [key, version, at] = log.confirmed.slice(i, i + 3) as [number, number, number]
      const list = confirmed.get(key) ?? []
      confirmed.set(key, list)
      list.push({ version, at, by: log.index })
    }
  }
  for (const { index, reads, finals } of logs) {
    for (let i = 0; i < reads.length; i += 3) {
      const [key, seen, began] = reads.slice(i, i + 3) as [number, number, number]
      const newer = firstAbove(confirmed.get(key) ?? [], seen)
      if (newer === undefined || newer.at >= began) continue
      const late = began - newer.at
      verdict.old += 1
      verdict.worstMs = Math.max(verdict.worstMs, late)
      if (late > boundMs) verdict.beyond += 1
      if (newer.by === index) verdict.own += 1
    }
    for (const [key, value] of finals.entries()) {
      const last = confirmed.get(key)?.at(-1)
      if (value !== null && last && value < last.version) verdict.unequal += 1
    }
  }
  return verdict
}

function firstAbove<T extends { version: number }>(list: readonly T[], seen: number): T | undefined {
  let [low, high] = [0, list.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((list[middle] as T).version > seen) high = middle
    else low = middle + 1
  }
  return list[low]
}

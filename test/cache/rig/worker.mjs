// One worker of the rig: random calls on a cache, everything it sees written down. The judge is `judge.ts`.
// Settings in RIG (JSON): { cache, redis, namespace, database, index, workers, keys, operations, seed, out, options }.
import { existsSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import { caches } from './caches.mjs'

const { Redis } = createRequire(import.meta.url)('ioredis')
const KEYS_PER_TAG = 5
const CALLERS = 8
const ANSWER_WITHIN_MS = 5_000
/** So many in a row, and nothing will ever be answered again. */
const MOST_UNANSWERED = 40

/** The machine's monotonic clock, in ms: one clock for all workers. */
const now = () => Number(process.hrtime.bigint() / 1_000n) / 1_000

export async function work(settings, redis, fatal = []) {
  const { index, workers, keys, operations, seed, out } = settings
  const cache = answering(await caches[settings.cache](redis, settings.namespace, settings.options))
  const database = new Redis(settings.database) // never disturbed
  const random = randomOf(seed * 1_000 + index)
  const pick = (count) => Math.floor(random() * count)
  const keyOf = (at) => `key-${at}`
  const tagOf = (at) => `tag-${at % workers}-${Math.floor(at / workers / KEYS_PER_TAG)}`
  const versionOf = async (at) => Number((await database.get(keyOf(at))) ?? 0)
  /** A key has one writer, and that one does one thing at a time: so versions are confirmed in their order. */
  const own = Array.from({ length: keys }, (_, at) => at).filter((at) => at % workers === index)
  const busy = new Set()
  const log = {
    index,
    reads: [],
    confirmed: [],
    loads: 0,
    errors: 0,
    unconfirmed: 0,
    operations: 0,
    misses: 0,
  }

  async function read(at, kind) {
    const began = now()
    let seen
    try {
      if (kind === 'get') seen = await cache.get(keyOf(at))
      else {
        const pause = pick(6)
        const load = async () => {
          log.loads += 1
          const version = await versionOf(at)
          if (pause > 0) await sleep(pause)
          return version
        }
        seen = await cache.getOrSet(keyOf(at), load, [tagOf(at)])
      }
    } catch {
      log.errors += 1
      return
    }
    if (seen === undefined || seen === null) log.misses += 1
    else log.reads.push(at, seen, began)
  }

  async function write(at) {
    const kind = random()
    const tagged = kind < 0.9 ? [at] : own.filter((other) => tagOf(other) === tagOf(at))
    if (tagged.some((each) => busy.has(each))) return
    for (const each of tagged) busy.add(each)
    try {
      const versions = await Promise.all(tagged.map((each) => database.incr(keyOf(each))))
      if (kind < 0.5) await cache.set(keyOf(at), versions[0], [tagOf(at)])
      else if (kind < 0.9) await cache.delete(keyOf(at))
      else if (kind < 0.985) await cache.deleteByTag(tagOf(at))
      else await cache.clear()
      const confirmedAt = now()
      for (const [i, each] of tagged.entries()) log.confirmed.push(each, versions[i], confirmedAt)
    } catch {
      log.unconfirmed += 1
    }
    for (const each of tagged) busy.delete(each)
  }

  async function call() {
    while (log.operations < operations) {
      log.operations += 1
      const kind = random()
      if (kind < 0.04) await write(own[pick(own.length)])
      else await read(pick(keys), kind < 0.25 ? 'getOrSet' : 'get')
      if (random() < 0.3) await sleep(pick(4))
    }
  }

  console.log(`working ${index} ${process.pid}`)
  await Promise.all(Array.from({ length: CALLERS }, call))
  console.log(`quiet ${index} ${process.pid}`)
  // The network is mended now; then everybody looks at everything.
  while (!existsSync(`${out}/go`)) await sleep(50)
  log.finals = []
  for (let at = 0; at < keys; at++) {
    const value = await Promise.resolve(cache.get(keyOf(at))).catch(() => undefined)
    log.finals.push(value ?? null)
  }
  log.fatal = fatal
  writeFileSync(`${out}/${index}.json`, JSON.stringify(log))
  console.log(`done ${index}`)
  database.disconnect()
}

/** What happens to the controls: a call that is never answered counts as failed, a worker that none is answered in as dead. */
function answering(cache) {
  let unanswered = 0
  const limited =
    (call) =>
    async (...args) => {
      const over = new AbortController()
      const late = sleep(ANSWER_WITHIN_MS, undefined, { signal: over.signal }).then(() => {
        unanswered += 1
        if (unanswered < MOST_UNANSWERED) throw new Error(`no answer within ${ANSWER_WITHIN_MS} ms`)
        console.error(`${unanswered} calls in a row without an answer`)
        process.exit(1)
      })
      try {
        const answer = await Promise.race([call(...args), late])
        unanswered = 0
        return answer
      } finally {
        late.catch(() => {})
        over.abort()
      }
    }
  return Object.fromEntries(Object.entries(cache).map(([name, call]) => [name, limited(call)]))
}

/** mulberry32 */
function randomOf(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

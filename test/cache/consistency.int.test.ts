import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { Cache } from '../../src/cache/index.ts'
import { long } from '../helpers/long.ts'
import { fileRng, type Rng } from '../helpers/random.ts'
import { startRedis, startRedisCluster, testNamespace } from '../helpers/redis.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { openCache, untilOn } from './open-cache.ts'

const MAX_STALENESS_MS = 300
/** Few enough to be read often, many enough that what is stale is not soon written again. */
const KEYS = Array.from({ length: 60 }, (_, at) => `key-${at}`)

/** What the rig knows of a key: a database, and when the cache was told of which version. */
interface Truth {
  /** In the database; the next write makes it one more. */
  version: number
  /** Confirmed writes in order: nothing older may be read later than the bound after `at`. */
  readonly confirmed: { version: number; at: number }[]
  writing: boolean
}

interface Findings {
  operations: number
  reads: number
  misses: number
  loads: number
  unconfirmed: number
  worstMs: number
  violations: string[]
}

/**
 * Random calls on several caches. Values are versions that only grow, and each key has one writer at a time; a writer
 * changes the database first, then the cache. A read is wrong if it returns a version older than one that was
 * confirmed more than `maxStaleness` before the read began. Writes that Redis did not confirm may show at any time.
 */
async function run(
  caches: readonly Cache[],
  rng: Rng,
  operations: number,
  workers: number,
  /** Ends the faults. */
  calm: () => Promise<unknown>,
): Promise<Findings> {
  const truths = new Map<string, Truth>(
    KEYS.map((key) => [key, { version: 0, confirmed: [], writing: false }]),
  )
  const findings: Findings = {
    operations: 0,
    reads: 0,
    misses: 0,
    loads: 0,
    unconfirmed: 0,
    worstMs: 0,
    violations: [],
  }

  function check(key: string, { confirmed }: Truth, seen: unknown, beganAt: number, how: string): void {
    findings.reads += 1
    if (seen === undefined) {
      findings.misses += 1
      return
    }
    const newer = confirmed.find(({ version }) => version > (seen as number))
    if (!newer || newer.at >= beganAt) return
    const late = beganAt - newer.at
    findings.worstMs = Math.max(findings.worstMs, late)
    if (late > MAX_STALENESS_MS)
      findings.violations.push(`${how} ${key}: ${seen} ${Math.round(late)} ms after ${newer.version}`)
  }

  async function write(key: string, truth: Truth, cache: Cache): Promise<void> {
    truth.writing = true
    truth.version += 1
    const { version } = truth
    const kind = rng.float()
    try {
      if (kind < 0.5) await cache.set(key, version)
      else if (kind < 0.98) await cache.delete(key)
      else await cache.clear()
      truth.confirmed.push({ version, at: performance.now() })
    } catch {
      findings.unconfirmed += 1
    }
    truth.writing = false
  }

  async function work(): Promise<void> {
    while (findings.operations < operations) {
      findings.operations += 1
      const key = rng.pick(KEYS)
      const truth = truths.get(key)!
      const cache = rng.pick(caches)
      const kind = rng.float()
      if (kind < 0.03 && !truth.writing) {
        await write(key, truth, cache)
      } else if (kind < 0.2) {
        const beganAt = performance.now()
        const pause = rng.int(0, 5)
        const load = async () => {
          findings.loads += 1
          const { version } = truth
          if (pause > 0) await sleep(pause)
          return version
        }
        check(key, truth, await cache.getOrSet(key, load, { ttl: rng.int(50, 5_000) }), beganAt, 'getOrSet')
      } else {
        const beganAt = performance.now()
        check(key, truth, await cache.get(key), beganAt, 'get')
      }
      if (rng.float() < 0.3) await sleep(rng.int(0, 3))
    }
  }

  await Promise.all(Array.from({ length: workers }, work)).finally(calm)
  // When all is quiet, every process has what Redis has.
  await untilOn(...caches)
  await until(() => settled(caches), { what: 'all caches to agree', deadline: 20_000 })
  return findings
}

async function settled(caches: readonly Cache[]): Promise<boolean> {
  for (const key of KEYS) {
    const values = await Promise.all(caches.map((cache) => cache.get(key)))
    if (new Set(values).size > 1) return false
  }
  return true
}

function report(what: string, findings: Findings): void {
  const { violations, worstMs, ...counts } = findings
  console.info(
    `[cache] ${what}: ${violations.length} violations, worst staleness ${worstMs.toFixed(1)} ms of ${MAX_STALENESS_MS},`,
    JSON.stringify(counts),
  )
  expect(violations).toEqual([])
}

describe('consistency', () => {
  const seeds = long([1], [1, 2, 3, 4, 5])
  const operations = long(20_000, 100_000)
  const options = { maxStaleness: MAX_STALENESS_MS, ttl: '5s', lease: 400, timeout: 500 } as const

  test.each(seeds)('over a bad network, round %i', { timeout: long(120_000, 900_000) }, async (round) => {
    const rng = fileRng().fork(`network ${round}`)
    const server = await startRedis()
    const proxies = await Promise.all([1, 2].map(() => startProxy({ target: { port: server.port } })))
    const namespace = testNamespace()
    const caches = [
      openCache(server.url, namespace, options),
      openCache(server.url, namespace, options, proxies[0]!.url()),
      openCache(proxies[1]!.url(), namespace, options, proxies[0]!.url()),
      openCache(proxies[1]!.url(), namespace, options),
    ]
    await untilOn(...caches)
    let over = false
    const weather = (async () => {
      const faults = rng.fork('faults')
      while (!over) {
        const proxy = faults.pick(proxies)
        const direction = faults.pick(['up', 'down', undefined] as const)
        const fault = faults.int(0, 3)
        if (fault === 0) proxy.delay(faults.int(0, 5), faults.int(0, 30), direction)
        else if (fault === 1) proxy.freeze(direction)
        else if (fault === 2) proxy.reset()
        await sleep(faults.int(20, 1_200))
        proxy.unfreeze()
        proxy.delay(0)
        await sleep(faults.int(20, 600))
      }
    })()
    const findings = await run(caches, rng, operations, 24, () => {
      over = true
      return weather
    })
    report('bad network', findings)
  })

  test.each(seeds)('with restarts of Redis, round %i', { timeout: long(120_000, 900_000) }, async (round) => {
    const rng = fileRng().fork(`restarts ${round}`)
    const server = await startRedis()
    const namespace = testNamespace()
    const caches = Array.from({ length: 4 }, () => openCache(server.url, namespace, options))
    await untilOn(...caches)
    let over = false
    const restarts = (async () => {
      const faults = rng.fork('faults')
      while (!over) {
        await sleep(faults.int(300, 1_500))
        if (over) return
        if (faults.float() < 0.5) await server.restart()
        else {
          await server.pause()
          await sleep(faults.int(50, 1_200))
          await server.resume()
        }
      }
    })()
    const findings = await run(caches, rng, operations, 24, () => {
      over = true
      return restarts
    })
    report('restarts', findings)
  })

  test.each(seeds)(
    'on a Cluster whose slots move, round %i',
    { timeout: long(120_000, 900_000) },
    async (round) => {
      const rng = fileRng().fork(`cluster ${round}`)
      const cluster = await startRedisCluster()
      const namespace = testNamespace()
      const caches = Array.from({ length: 4 }, () => openCache(cluster.url, namespace, options))
      await untilOn(...caches)
      let over = false
      const moves = (async () => {
        await sleep(500)
        const newcomer = await cluster.addMaster()
        for (const key of KEYS) {
          if (over) return
          const slot = (await newcomer
            .client()
            .cluster('KEYSLOT', `${namespace}:c:main:${key}`)) as unknown as number
          const owner = await cluster.ownerOf(`${namespace}:c:main:${key}`)
          if (owner !== newcomer) await cluster.moveSlots(owner, newcomer, [slot])
          await sleep(rng.int(50, 300))
        }
      })()
      const findings = await run(caches, rng, operations, 24, () => {
        over = true
        return moves
      })
      report('Cluster, slots moved to a new master', findings)
    },
  )
})

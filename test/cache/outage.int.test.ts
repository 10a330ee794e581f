import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { CacheEvents } from '../../src/cache/index.ts'
import { long } from '../helpers/long.ts'
import { type PrivateRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { openCache, untilCopied, untilOn } from './open-cache.ts'

interface Timed {
  ms: number
  value?: unknown
  code?: unknown
}

/** A call's outcome, and how long it took. */
async function timed(call: () => Promise<unknown>): Promise<Timed> {
  const began = performance.now()
  try {
    const value = await call()
    return { ms: performance.now() - began, value }
  } catch (error) {
    return { ms: performance.now() - began, code: (error as { code?: unknown }).code }
  }
}

describe('Redis away', () => {
  test('nothing hangs, nothing dies, and all comes back by itself', async () => {
    const server = await startRedis()
    const cache = openCache(server.url, testNamespace(), { maxStaleness: 1_000 })
    await untilOn(cache)
    await cache.set('k', 'stored', { ttl: '1h' })
    await untilCopied(cache, 'k')

    await server.kill()
    await until(() => !cache.stats().l1.on, { what: 'the copies to stand aside', every: 5, deadline: 2_000 })
    let loads = 0
    const load = () => ++loads
    const rejected = { code: 'ERR_AS_ONE_REDIS_UNAVAILABLE' }
    const calls: Timed[] = await Promise.all([
      timed(() => cache.get('k')),
      timed(() => cache.set('k', 1)),
      timed(() => cache.delete('k')),
      timed(() => cache.clear()),
    ])
    calls.push(await timed(() => cache.getOrSet('loaded', load)))
    expect(Math.max(...calls.map(({ ms }) => ms))).toBeLessThan(600)
    expect(calls[0]).toMatchObject({ value: undefined })
    for (const call of calls.slice(1, 4)) expect(call).toMatchObject(rejected)
    expect(calls[4]).toMatchObject({ value: 1 })
    expect(await cache.getOrSet('loaded', load)).toBe(1) // kept for as long as a copy may be old
    await sleep(1_050)
    expect(await cache.getOrSet('loaded', load)).toBe(2)

    await server.restart()
    const backAt = performance.now()
    await until(() => timed(() => cache.set('k', 'again')).then(({ code }) => code === undefined), {
      what: 'writes to work again',
      every: 5,
    })
    console.info(`[cache] writes work ${Math.round(performance.now() - backAt)} ms after Redis is back`)
    await untilOn(cache)
    await untilCopied(cache, 'k')
    expect(cache.peek('k')).toBe('again')
  })

  test('frozen: every call is answered within its timeout', async () => {
    const server = await startRedis()
    const cache = openCache(server.url, testNamespace(), { timeout: 200 })
    await untilOn(cache)
    await cache.set('k', 1)
    await server.pause()
    await sleep(1_100)
    for (const call of [() => cache.get('k'), () => cache.getOrSet('k', () => 2)]) {
      const { ms, code } = await timed(call)
      expect(code).toBeUndefined()
      expect(ms).toBeLessThan(300)
    }
    const refused = await timed(() => cache.set('k', 3))
    expect(refused.code).toBe('ERR_AS_ONE_REDIS_UNAVAILABLE')
    expect(refused.ms).toBeLessThan(300)
    await server.resume()
    await untilOn(cache)
    await cache.set('k', 4)
    expect(await cache.get('k')).toBe(4)
  })

  test('loaders are bounded in number', async () => {
    const server = await startRedis()
    const cache = openCache(server.url, testNamespace(), { outageConcurrency: 5 })
    await cache.get('k')
    await server.kill()
    let running = 0
    let most = 0
    const load = async () => {
      most = Math.max(most, ++running)
      await sleep(5)
      running -= 1
      return 'loaded'
    }
    const values = await Promise.all(Array.from({ length: 100 }, (_, at) => cache.getOrSet(`k${at}`, load)))
    expect(new Set(values)).toEqual(new Set(['loaded']))
    expect(most).toBe(5)
  })

  test('an outage is not one of the database: each key is loaded once a second', {
    timeout: 60_000,
  }, async () => {
    const server = await startRedis()
    const cache = openCache(server.url, testNamespace())
    await untilOn(cache)
    await server.kill()
    const loads: number[] = []
    const errors: unknown[] = []
    const load = async () => {
      loads.push(performance.now())
      await sleep(5)
      return 'loaded'
    }
    const calls: Promise<unknown>[] = []
    const began = performance.now()
    const forMs = long(2_500, 30_000)
    for (let now = began; now - began < forMs; now = performance.now()) {
      while (calls.length < (now - began) * 2)
        calls.push(cache.getOrSet(`k${calls.length % 500}`, load).catch((error) => errors.push(error)))
      await sleep(2)
    }
    await Promise.all(calls)
    let most = 0
    for (let from = 0, to = 0; to < loads.length; to++) {
      while (loads[to]! - loads[from]! >= 990) from++
      most = Math.max(most, to - from + 1)
    }
    console.info(
      `[cache] outage: ${calls.length} reads, ${loads.length} loads, at most ${most} in one second`,
    )
    expect(errors).toEqual([])
    expect(most).toBeLessThanOrEqual(500)
    expect(loads.length).toBeGreaterThan(500)
  })

  test('from the start: a cache works without, and comes up with it', async () => {
    const server = await startRedis()
    await server.kill()
    const cache = openCache(server.url, testNamespace())
    expect(await cache.getOrSet('k', () => 1)).toBe(1)
    expect(cache.stats().l1.on).toBe(false)
    await server.restart()
    await untilOn(cache)
    await cache.set('k', 2)
    expect(await cache.get('k')).toBe(2)
  })
})

/** Redis that is gone, and Redis that is there and says nothing. */
const absences: [string, (server: PrivateRedis) => Promise<void>, (server: PrivateRedis) => Promise<void>][] =
  [
    ['killed', (server) => server.kill(), (server) => server.restart()],
    ['frozen', (server) => server.pause(), (server) => server.resume()],
  ]

describe.each(absences)('Redis %s', (_how, away, back) => {
  const TIMEOUT_MS = 300
  /** A busy machine's timers are late. */
  const LATE_MS = 300

  test('a value in its grace is served with an event, and no call takes longer than its timeout', async () => {
    const server = await startRedis()
    const options = { timeout: TIMEOUT_MS, maxStaleness: 300, ttl: 400, grace: '1m' } as const
    const cache = openCache(server.url, testNamespace(), options)
    await untilOn(cache)
    const stale: CacheEvents['stale'][] = []
    cache.on('stale', (detail) => stale.push(detail))
    for (const key of ['fails', 'late', 'never']) {
      await cache.set(key, 'old')
      await untilCopied(cache, key)
    }
    await away(server)
    await sleep(450) // the values are past their TTL, and the proof is too
    const failure = new Error('database away')
    const calls: [string, () => Promise<unknown>][] = [
      ['get', () => cache.get('fails')],
      ['fails', () => cache.getOrSet('fails', () => Promise.reject(failure))],
      ['late', () => cache.getOrSet('late', () => sleep(2_000), { softTimeout: 50 })],
      ['never', () => cache.getOrSet('never', () => new Promise(() => {}), { hardTimeout: 50 })],
      ['set', () => cache.set('fails', 'new')],
    ]
    const results = new Map<string, Timed>()
    for (const [what, call] of calls) results.set(what, await timed(call))
    console.info(
      `[cache] Redis ${_how}: ${[...results].map(([what, { ms }]) => `${what} ${Math.round(ms)}`).join(', ')} ms`,
    )
    for (const [what, { ms }] of results) expect(ms, what).toBeLessThan(TIMEOUT_MS + 50 + LATE_MS)
    expect(results.get('get')).toMatchObject({ value: undefined })
    for (const key of ['fails', 'late', 'never'])
      expect(results.get(key), key).toMatchObject({ value: 'old' })
    expect(results.get('set')).toMatchObject({ code: 'ERR_AS_ONE_REDIS_UNAVAILABLE' })
    expect(stale).toEqual([
      { key: 'fails', reason: 'load-failed', error: failure },
      { key: 'late', reason: 'soft-timeout' },
      { key: 'never', reason: 'hard-timeout' },
    ])
    await back(server)
    await cache.close()
  })

  test("outage 'serve': copies last for their TTL, and what was heard to be outdated does not", async () => {
    const server = await startRedis()
    const namespace = testNamespace()
    const options = { timeout: TIMEOUT_MS, maxStaleness: 200, outage: 'serve', grace: 1 } as const
    const cache = openCache(server.url, namespace, options)
    const other = openCache(server.url, namespace)
    await untilOn(cache, other)
    await cache.set('short', 'copy', { ttl: '1500ms' })
    const setAt = performance.now()
    await cache.set('long', 'copy', { ttl: '1h' })
    await cache.set('changed', 'copy', { ttl: '1h' })
    for (const key of ['short', 'long', 'changed']) await untilCopied(cache, key)
    await other.set('changed', 'newer')
    await until(() => cache.peek('changed') === undefined, { what: 'the copy to go', every: 2 })
    await away(server)
    await until(() => !cache.stats().l1.on, { what: 'the proof to run out', every: 5 })
    expect(cache.peek('long')).toBeUndefined() // without Redis nobody knows whether it is the newest
    let loads = 0
    const load = () => `loaded ${++loads}`
    expect(await cache.getOrSet('long', load)).toBe('copy')
    expect(await cache.get('long')).toBe('copy')
    expect(loads).toBe(0)
    expect(await cache.getOrSet('changed', load)).toBe('loaded 1')
    expect(performance.now() - setAt).toBeLessThan(1_500) // or the next line says nothing
    expect(await cache.getOrSet('short', load)).toBe('copy')
    await sleep(Math.max(0, setAt + 1_550 - performance.now()))
    expect(await cache.getOrSet('short', load)).toBe('loaded 2')
    expect(await cache.getOrSet('long', load)).toBe('copy')
    await back(server)
    await cache.close()
  })

  test('all works again within a second of its return', async () => {
    const server = await startRedis()
    const late: Record<string, number[]> = { writes: [], copies: [] }
    const cache = openCache(server.url, testNamespace())
    for (let round = 0; round < long(1, 4); round++) {
      await untilOn(cache)
      await away(server)
      // Long enough for the attempts to come back to be as rare as they get.
      await sleep(long(1_000, 6_000))
      await back(server)
      const backAt = performance.now()
      const works = async () => {
        const { code } = await timed(() => cache.set('k', round))
        if (code === undefined) late.writes!.push(performance.now() - backAt)
        return code === undefined
      }
      await until(works, { what: 'writes to work again', every: 5 })
      await until(
        async () => {
          await cache.get('k')
          return cache.stats().l1.on
        },
        { what: 'copies to count again', every: 5 },
      )
      late.copies!.push(performance.now() - backAt)
      expect(await cache.get('k')).toBe(round)
    }
    const told = Object.entries(late).map(([what, times]) => `${what} after ${times.map(Math.round)} ms`)
    console.info(`[cache] Redis ${_how} and back: ${told.join(', ')}`)
    expect(Math.max(...late.writes!)).toBeLessThan(long(3_000, 1_000))
  })
})

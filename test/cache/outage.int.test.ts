import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { CacheEvents } from '../../src/cache/index.ts'
import { long } from '../helpers/long.ts'
import { type PrivateRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { until } from '../helpers/until.ts'
import { openCache, untilCopied, untilOn, untilSet } from './open-cache.ts'

interface Timed {
  ms: number
  value?: unknown
  code?: unknown
}

/** A busy machine's timers are late. */
const LATE_MS = 300

const clock = runningClock()

/** A call's outcome, and how long it took; the time for which this process stood still does not count. */
async function timed(call: () => Promise<unknown>): Promise<Timed> {
  const began = clock()
  try {
    const value = await call()
    return { ms: clock() - began, value }
  } catch (error) {
    return { ms: clock() - began, code: (error as { code?: unknown }).code }
  }
}

describe('Redis away', () => {
  test('nothing hangs, nothing dies, and all comes back by itself', async () => {
    const server = await startRedis()
    const cache = openCache(server.url, testNamespace(), { maxStaleness: 1_000, timeout: 500 })
    await untilOn(cache)
    await cache.set('k', 'stored', { ttl: '1h' })
    await untilCopied(cache, 'k')

    await server.kill()
    await until(() => !cache.stats().l1.on, { what: 'the copies to stand aside', every: 5 })
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
    expect(Math.max(...calls.map(({ ms }) => ms))).toBeLessThan(500 + LATE_MS)
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
    const cache = openCache(server.url, testNamespace(), { timeout: 200, maxStaleness: 300 })
    await untilOn(cache)
    await untilSet(cache, 'k', 1)
    await server.pause()
    await until(() => !cache.stats().l1.on, { what: 'the proof to run out', every: 5 })
    for (const call of [() => cache.get('k'), () => cache.getOrSet('k', () => 2)]) {
      const { ms, code } = await timed(call)
      expect(code).toBeUndefined()
      expect(ms).toBeLessThan(200 + LATE_MS)
    }
    const refused = await timed(() => cache.set('k', 3))
    expect(refused.code).toBe('ERR_AS_ONE_REDIS_UNAVAILABLE')
    expect(refused.ms).toBeLessThan(200 + LATE_MS)
    await server.resume()
    await untilOn(cache)
    await untilSet(cache, 'k', 4)
    await until(async () => (await cache.get('k')) === 4, { what: 'it to be read' })
  })

  test('loaders are bounded in number', async () => {
    const server = await startRedis()
    const cache = openCache(server.url, testNamespace(), { outageConcurrency: 5, timeout: 200 })
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

  test('a load that waits for its turn is shared by all who ask meanwhile, however long that takes', async () => {
    const server = await startRedis()
    const options = { outageConcurrency: 1, maxStaleness: 200, timeout: 200 }
    const cache = openCache(server.url, testNamespace(), options)
    await cache.get('k')
    await server.kill()
    let open = (_value: string): void => {}
    const before = cache.getOrSet('slow', () => new Promise((resolve) => (open = resolve)))
    let loads = 0
    const calls: Promise<unknown>[] = []
    for (const began = performance.now(); performance.now() - began < 700; await sleep(50))
      calls.push(cache.getOrSet('k', () => ++loads))
    expect(loads).toBe(0)
    open('at last')
    expect(await before).toBe('at last')
    expect(new Set(await Promise.all(calls))).toEqual(new Set([1]))
    expect(loads).toBe(1)
  })

  test('a loader that asks for another key does not wait for the turn that it takes up itself', async () => {
    const server = await startRedis()
    const cache = openCache(server.url, testNamespace(), { outageConcurrency: 1, timeout: 200 })
    await cache.get('k')
    await server.kill()
    expect(await cache.getOrSet('outer', () => cache.getOrSet('inner', () => 1))).toBe(1)

    let open = (): void => {}
    const outer = cache.getOrSet('outer of a shared one', async () => {
      await new Promise<void>((resolve) => (open = resolve))
      return cache.getOrSet('shared', () => 2)
    })
    const shared = cache.getOrSet('shared', () => 2) // waits for the end of that
    await sleep(250)
    open()
    expect(await Promise.all([outer, shared])).toEqual([2, 2])
    expect(await cache.getOrSet('after that', () => 3)).toBe(3)
  })

  test('nor does it wait for one that asks Redis yet, and will find no turn', async () => {
    const server = await startRedis()
    const cache = openCache(server.url, testNamespace(), { outageConcurrency: 1, timeout: 400 })
    await cache.get('k')
    await server.pause()
    let open = (): void => {}
    const begun = new Promise<void>((resolve) => {
      open = resolve
    })
    let running = false
    const outer = cache.getOrSet('outer', async () => {
      running = true
      await begun
      return cache.getOrSet('shared', () => 2)
    })
    await until(() => running, { what: 'the loader' })
    await sleep(600) // reads are tried again: the next one waits for Redis
    const shared = cache.getOrSet('shared', () => 2)
    open()
    expect(await Promise.all([outer, shared])).toEqual([2, 2])
    await server.resume()
  })

  test('hardTimeout before Redis has answered: the value in its grace that this process has', async () => {
    const server = await startRedis()
    const options = { timeout: '5s', ttl: 300, grace: '1h', hardTimeout: 100 } as const
    const cache = openCache(server.url, testNamespace(), options)
    await untilOn(cache)
    for (const key of ['kept', 'deleted']) {
      const copied = async () => {
        await cache.set(key, 'old')
        return (await cache.get(key)) !== undefined && cache.peek(key) !== undefined
      }
      await until(copied, { what: `a copy of ${key}`, every: 5 })
    }
    await cache.delete('deleted')
    await until(() => cache.peek('kept') === undefined, { what: 'the end of its TTL', every: 5 })
    await server.pause()
    const never = () => new Promise(() => {})
    const timedOut = { code: 'ERR_AS_ONE_TIMEOUT' }
    await expect(cache.getOrSet('deleted', never)).rejects.toMatchObject(timedOut)
    expect(await cache.getOrSet('kept', never)).toBe('old')
    await server.resume()
  })

  test('an outage is not one of the database: each key is loaded once a second', {
    timeout: 60_000,
  }, async () => {
    const server = await startRedis()
    const cache = openCache(server.url, testNamespace(), { timeout: 500 })
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
    const cache = openCache(server.url, testNamespace(), { timeout: 200 })
    expect(await cache.getOrSet('k', () => 1)).toBe(1)
    expect(cache.stats().l1.on).toBe(false)
    await server.restart()
    await untilOn(cache)
    await untilSet(cache, 'k', 2)
    await until(async () => (await cache.get('k')) === 2, { what: 'it to be read' })
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

  test('a value in its grace is served with an event, and no call takes longer than its timeout', async () => {
    const server = await startRedis()
    const options = { timeout: TIMEOUT_MS, maxStaleness: 300, ttl: 400, grace: '1m' } as const
    const cache = openCache(server.url, testNamespace(), options)
    await untilOn(cache)
    const stale: CacheEvents['stale'][] = []
    cache.on('stale', (detail) => stale.push(detail))
    for (const key of ['fails', 'late', 'never']) {
      const copied = async (): Promise<boolean> => {
        await cache.set(key, 'old') // each time: its TTL is soon over on a machine that stands still
        await cache.get(key)
        return cache.peek(key) !== undefined
      }
      await until(copied, { what: `a copy of ${key}`, every: 5 })
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
    const setAt = performance.now()
    await cache.set('short', 'copy', { ttl: '1500ms' })
    const isSetAt = performance.now()
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
    const short = await cache.getOrSet('short', load)
    // A machine that has stood still for most of a second has let it end.
    if (performance.now() - setAt < 1_490) expect(short).toBe('copy')
    await sleep(Math.max(0, isSetAt + 1_550 - performance.now()))
    expect(await cache.getOrSet('short', load)).toMatch(/^loaded/)
    expect(await cache.getOrSet('long', load)).toBe('copy')
    await back(server)
    await cache.close()
  })

  test('all works again within a second of its return', async () => {
    const server = await startRedis()
    const late: Record<string, number[]> = { writes: [], copies: [] }
    const cache = openCache(server.url, testNamespace(), { timeout: 500 })
    for (let round = 0; round < long(1, 4); round++) {
      await untilOn(cache)
      await away(server)
      // Long enough for the attempts to come back to be as rare as they get.
      await sleep(long(1_000, 6_000))
      await back(server)
      const backAt = performance.now()
      const works = async () => {
        const { code } = await timed(() => cache.set('k', round))
        if (code === undefined) late.writes!.push(clock() - backAt)
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
      await until(async () => (await cache.get('k')) === round, { what: 'it to be read' })
    }
    const told = Object.entries(late).map(([what, times]) => `${what} after ${times.map(Math.round)} ms`)
    console.info(`[cache] Redis ${_how} and back: ${told.join(', ')}`)
    expect(Math.max(...late.writes!)).toBeLessThan(long(3_000, 1_000))
  })
})

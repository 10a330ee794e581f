import { beforeEach, expect, test } from 'vitest'
import type { SharedContext } from '../../src/context.ts'
import {
  createRateLimit,
  createRateLimiter,
  type RateLimitAlgorithm,
  type RateLimitDecision,
  type RateLimiter,
  type RateLimiterOptions,
} from '../../src/rate-limit/index.ts'
import { get } from '../helpers/http.ts'
import { freePort } from '../helpers/ports.ts'
import { type PrivateRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { until } from '../helpers/until.ts'
import { app, events, worker } from './app.ts'

/** 100 ms are promised; the rest is for a busy machine. */
const firstMs = 100 + 300
/** 1 ms is promised, and measured in the median. */
const thenMs = 1

let redis: PrivateRedis
let ctx: SharedContext

beforeEach(async () => {
  redis = await startRedis()
  ctx = worker(redis.url, testNamespace())
  await Promise.all([ctx.redis.ready(), ctx.connect('rate-limit').ready()])
})

const clock = runningClock()

/** How long a decision has taken; the time for which this process stood still does not count. */
async function timed(limiter: RateLimiter, key = 'k'): Promise<RateLimitDecision & { ms: number }> {
  const startedAt = clock()
  const decision = await limiter.consume(key)
  return { ...decision, ms: clock() - startedAt }
}

async function medianMs(limiter: RateLimiter): Promise<number> {
  const all: number[] = []
  for (let round = 0; round < 200; round++) all.push((await timed(limiter)).ms)
  return all.toSorted((a, b) => a - b)[100] as number
}

const away: Record<string, { goes(): Promise<void>; comes(): Promise<void> }> = {
  frozen: { goes: () => redis.pause(), comes: () => redis.resume() },
  killed: { goes: () => redis.kill(), comes: () => redis.restart() },
}

const kinds: Record<string, Partial<RateLimiterOptions>> = {
  'sliding-window': {},
  'sliding-window, leases': { lease: true },
  gcra: { algorithm: 'gcra' },
  'gcra, leases': { algorithm: 'gcra', lease: true },
  'fixed-window': { algorithm: 'fixed-window' },
  concurrency: { algorithm: 'concurrency' },
}

for (const [kind, options] of Object.entries(kinds)) {
  for (const [how, { goes, comes }] of Object.entries(away)) {
    test(`${kind}, Redis ${how}: decided here in time, then at once, and by Redis again when it is back`, async () => {
      const heard = events()
      const limiter = createRateLimiter(ctx, { name: 'n', limit: 10, per: '1h', ...options })
      await until(async () => (await limiter.consume('warm')).source === 'redis', { what: 'Redis to decide' })
      await goes()
      const burst = await Promise.all(Array.from({ length: 50 }, () => timed(limiter)))
      for (const { source, ms } of burst) {
        expect(source).toBe('local')
        expect(ms).toBeLessThan(firstMs)
      }
      // Alone on this machine, its share is the whole limit.
      expect(burst.filter(({ allowed }) => allowed)).toHaveLength(10)
      const laterMs = await medianMs(limiter)
      console.info(
        `[outage] ${kind}, ${how}: first ${Math.max(...burst.map(({ ms }) => ms)).toFixed(0)} ms, then ${laterMs.toFixed(3)} ms`,
      )
      expect(laterMs).toBeLessThan(thenMs)
      await comes()
      await until(async () => (await limiter.consume('other')).source === 'redis', {
        what: 'Redis to decide again',
      })
      const told = heard.filter(({ event }) => event === 'unavailable' || event === 'available')
      expect(told[0]).toMatchObject({ event: 'unavailable' })
      expect(told.at(-1)).toMatchObject({ event: 'available' })
      // What was decided here meanwhile is not on Redis' account.
      expect((await limiter.peek('k')).remaining).toBeGreaterThanOrEqual(0)
    })
  }
}

test('local: other processes of this machine have their share, also when they can no longer be seen', async () => {
  const others = [1, 2].map(() => worker(redis.url, ctx.keys.namespace))
  for (const other of others) other.bus.start()
  const limiters = Object.entries(kinds).map(([kind, options], index) => ({
    kind,
    limiter: createRateLimiter(ctx, { name: `n${index}`, limit: 10, per: '1h', ...options }),
  }))
  for (const { kind, limiter } of limiters) {
    await until(
      async () => (await limiter.consume('warm')).source === 'redis' && ctx.bus.members().length === 3,
      { what: `three members, ${kind}` },
    )
  }
  await redis.pause()
  for (const { kind, limiter } of limiters) {
    const decisions = await Promise.all(Array.from({ length: 20 }, () => limiter.consume('k')))
    expect(decisions.map(({ source }) => source)).toEqual(decisions.map(() => 'local'))
    expect(decisions.filter(({ allowed }) => allowed).length, kind).toBe(4) // ceil(10 / 3)
    expect(decisions[0]?.policy.limit).toBe(10)
  }
})

for (const [how, { goes, comes }] of Object.entries(away)) {
  test(`leases, Redis ${how}: what is leased is spent at once, then it is decided here in time`, async () => {
    const limiter = createRateLimiter(ctx, { name: 'n', limit: 1_000, per: '1h', lease: true })
    const hot = (): Promise<(RateLimitDecision & { ms: number })[]> =>
      Promise.all(Array.from({ length: 20 }, () => timed(limiter)))
    await until(async () => (await hot()).at(-1)?.source === 'lease', { what: 'a lease', every: 5 })
    await goes()
    const decisions: (RateLimitDecision & { ms: number })[] = []
    while (decisions.at(-1)?.source !== 'local') decisions.push(...(await hot()))
    for (const { source, ms } of decisions) {
      expect(['lease', 'local']).toContain(source)
      expect(ms).toBeLessThan(firstMs)
    }
    expect(decisions.filter(({ source }) => source === 'lease').length).toBeLessThan(1_000)
    expect(await medianMs(limiter)).toBeLessThan(thenMs)
    await comes()
    await until(async () => (await limiter.consume('other')).source === 'redis', {
      what: 'Redis to decide again',
    })
  })
}

for (const algorithm of ['sliding-window', 'fixed-window'] satisfies RateLimitAlgorithm[]) {
  test(`${algorithm}: a hiccup of Redis costs the decisions that waited, not those after it`, async () => {
    const limiter = createRateLimiter(ctx, { name: 'n', limit: 1_000, per: '1h', algorithm })
    await until(async () => (await limiter.consume('warm')).source === 'redis', { what: 'Redis to decide' })
    await redis.pause() // for as long as it takes: time in which this process stands still does not count
    expect((await limiter.consume('k')).source).toBe('local')
    await redis.resume()
    const backAt = clock()
    await until(async () => (await limiter.consume('k')).source === 'redis', {
      what: 'Redis to decide again',
      every: 5,
    })
    expect(clock() - backAt).toBeLessThan(600)
  })
}

test('local: keys are counted apart, a reset that Redis did not confirm rejects', async () => {
  const limiter = createRateLimiter(ctx, { name: 'n', limit: 2, per: '1h' })
  await limiter.consume('warm')
  await redis.kill()
  for (const key of ['a', 'b', 'x'.repeat(70_000)]) {
    const allowed = []
    for (let round = 0; round < 4; round++) allowed.push((await limiter.consume(key)).allowed)
    expect(allowed).toEqual([true, true, false, false])
  }
  expect(await limiter.peek('a')).toMatchObject({ allowed: false, source: 'local', remaining: 0 })
  await expect(limiter.reset('a')).rejects.toMatchObject({
    code: 'ERR_AS_ONE_REDIS_UNAVAILABLE',
    status: 503,
  })
})

test('local: bounded memory, and the keys in use are the ones that are kept', async () => {
  const limiter = createRateLimiter(ctx, { name: 'n', limit: 1, per: '1h' })
  await limiter.consume('warm')
  await redis.kill()
  await limiter.consume('mine')
  for (let index = 0; index < 19_999; index++) await limiter.consume(`flood-${index}`)
  expect((await limiter.consume('mine')).allowed).toBe(false)
  for (let index = 0; index < 19_999; index++) await limiter.consume(`more-${index}`)
  expect((await limiter.consume('mine')).allowed).toBe(false)
  expect((await limiter.consume('flood-0')).allowed).toBe(true) // forgotten
})

test("'allow' lets everything through and sends no numbers nobody counted", async () => {
  const url = await app(createRateLimit(ctx, { limit: 1, per: '1h', onUnavailable: 'allow' }))
  await get(url)
  await redis.kill()
  for (let visits = 0; visits < 5; visits++) {
    const reply = await get(url)
    expect([reply.status, reply.headers.ratelimit]).toEqual([200, undefined])
    expect(reply.json()).toMatchObject({ allowed: true, source: 'none' })
  }
})

test("'deny' is a 503 that says why and when to come back, and no 429", async () => {
  const url = await app(createRateLimit(ctx, { limit: 10, per: '1h', onUnavailable: 'deny' }))
  await get(url)
  await redis.kill()
  const reply = await get(url)
  expect([reply.status, reply.headers['retry-after']]).toEqual([503, '1'])
  expect(reply.body).toContain(
    "ERR_AS_ONE_REDIS_UNAVAILABLE: rate limit 'default' cannot be decided: Redis at ",
  )
  await redis.restart()
  await until(async () => (await get(url)).status === 200, { what: 'the limit to be decided again' })
})

test('a Redis that was never there: decided here in time, and by Redis once it is there', async () => {
  const port = await freePort()
  const started = worker(`redis://127.0.0.1:${port}`, testNamespace())
  const limiter = createRateLimiter(started, { name: 'n', limit: 1, per: '1h' })
  const first = await Promise.all([timed(limiter), timed(limiter)])
  for (const { ms, source } of first) {
    expect(source).toBe('local')
    expect(ms).toBeLessThan(firstMs)
  }
  expect(await medianMs(limiter)).toBeLessThan(thenMs)
  await startRedis({ port })
  await until(async () => (await limiter.consume('other')).source === 'redis', { what: 'Redis to decide' })
})

test('a Redis that takes connections and never answers: the first decision takes a second, once', async () => {
  await redis.pause()
  const started = worker(redis.url, testNamespace())
  const limiter = createRateLimiter(started, { name: 'n', limit: 1, per: '1h' })
  const [first] = await Promise.all([timed(limiter), timed(limiter)])
  expect(first.source).toBe('local')
  expect(first.ms).toBeLessThan(1_000 + firstMs)
  expect(await medianMs(limiter)).toBeLessThan(thenMs)
  await redis.resume()
  await until(async () => (await limiter.consume('other')).source === 'redis', { what: 'Redis to decide' })
})

test('no Redis configured: an error, not a limit of its own', async () => {
  const { REDIS_URL, NODE_ENV } = process.env
  const { rateLimit } = await import('../../src/rate-limit/index.ts')
  process.env.NODE_ENV = 'production'
  delete process.env.REDIS_URL
  try {
    const url = await app(rateLimit({ limit: 1, per: '1h' }))
    const reply = await get(url)
    expect([reply.status, reply.body]).toEqual([500, expect.stringContaining('ERR_AS_ONE_REDIS_CONFIG')])
  } finally {
    Object.assign(process.env, { NODE_ENV, REDIS_URL })
    if (REDIS_URL === undefined) delete process.env.REDIS_URL
  }
})

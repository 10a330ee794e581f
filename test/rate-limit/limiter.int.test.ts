import { readFileSync } from 'node:fs'
import { expect, test, vi } from 'vitest'
import { FIXED_WINDOW_LUA } from '../../src/rate-limit/fixed-window.ts'
import { createRateLimiter, type RateLimiterOptions } from '../../src/rate-limit/index.ts'
import { monitor } from '../helpers/monitor.ts'
import {
  sharedRedis,
  sharedRedisClient,
  startRedis,
  startRedisCluster,
  testNamespace,
} from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { rateLimitSuite } from '../suites/rate-limit-suite.ts'
import { events, worker } from './app.ts'

vi.mock(import('../../src/redis/deadlines.ts'), async (original) =>
  (await import('./patience.ts')).patiently(original),
)

const standalone = async () => ({ url: sharedRedis().url, namespace: testNamespace })
const cluster = async () => ({ url: (await startRedisCluster()).url, namespace: testNamespace })

for (const algorithm of ['sliding-window', 'gcra', 'fixed-window'] as const) {
  rateLimitSuite('one Redis', algorithm, standalone)
  rateLimitSuite('a 3-master Cluster', algorithm, cluster)
}

test('making limiters opens no connection; each algorithm then takes its own', async () => {
  const ctx = worker(sharedRedis().url, testNamespace())
  const sliding = createRateLimiter(ctx, { name: 's', limit: 1, per: '1m' })
  const fixed = createRateLimiter(ctx, { name: 'f', limit: 1, per: '1m', algorithm: 'fixed-window' })
  expect([ctx.redis.now, ctx.connect('rate-limit').now]).toEqual([undefined, undefined])
  await sliding.consume('k')
  expect(ctx.connect('rate-limit').now).toBeUndefined()
  await fixed.consume('k')
  expect('rlflxIncr' in (ctx.connect('rate-limit').now ?? {})).toBe(true)
  expect('rlflxIncr' in (ctx.redis.now ?? {})).toBe(false)
  await ctx.closing.close()
  for (const limiter of [sliding, fixed]) {
    await expect(limiter.consume('k')).rejects.toMatchObject({ code: 'ERR_AS_ONE_CLOSED' })
  }
})

test('one command per decision, also of several limiters on one client', async () => {
  const ctx = worker(sharedRedis().url, testNamespace())
  const limiters = (['sliding-window', 'fixed-window'] as const).flatMap((algorithm) =>
    [1, 2].map((index) =>
      createRateLimiter(ctx, { name: `${algorithm}-${index}`, limit: index, per: '1m', algorithm }),
    ),
  )
  for (const limiter of limiters)
    await until(async () => (await limiter.consume('warm')).source !== 'local', { what: 'Redis to decide' })
  const { sent } = await monitor(Number(new URL(sharedRedis().url).port))
  const { namespace } = ctx.keys
  const ours = (): string[] =>
    sent.filter(({ line }) => line.includes(`"${namespace}:r:`)).map(({ name }) => name)
  for (const limiter of limiters)
    expect((await limiter.consume('k')).remaining).toBe(limiter.policy.limit - 1)
  await sharedRedisClient().set(`${namespace}:r:end`, '', 'PX', 1_000)
  await until(() => ours().includes('set'), { what: 'MONITOR to have told everything' })
  expect(ours()).toEqual(['evalsha', 'evalsha', 'evalsha', 'evalsha', 'set'])
})

test('two algorithms and two windows under one name do not share counts', async () => {
  const namespace = testNamespace()
  const limiter = (algorithm: 'sliding-window' | 'fixed-window', per: '1m' | '2m') =>
    createRateLimiter(worker(sharedRedis().url, namespace), { name: 'n', limit: 1, per, algorithm })
  for (const algorithm of ['sliding-window', 'fixed-window'] as const) {
    for (const per of ['1m', '2m'] as const) {
      expect((await limiter(algorithm, per).consume('k')).allowed).toBe(true)
      expect((await limiter(algorithm, per).consume('k')).allowed).toBe(false)
    }
  }
})

test('a lower limit after a deploy counts what has been admitted', async () => {
  const namespace = testNamespace()
  for (const algorithm of ['sliding-window', 'fixed-window'] as const) {
    const limiter = (limit: number) =>
      createRateLimiter(worker(sharedRedis().url, namespace), { name: 'n', limit, per: '1h', algorithm })
    await limiter(10).consume('k', { cost: 7 })
    expect(await limiter(5).consume('k')).toMatchObject({ allowed: false, remaining: 0 })
    expect(await limiter(9).consume('k')).toMatchObject({ allowed: true, remaining: 1 })
  }
})

test("fixed window: never below 0, and somebody else's key gets a TTL", async () => {
  const redis = sharedRedisClient()
  const key = `${testNamespace()}:fixed`
  const run = (cost: number) => redis.eval(FIXED_WINDOW_LUA, 1, key, cost, 60_000, 5)
  expect(await run(3)).toEqual([3, 60_000, expect.any(Number)])
  expect(((await run(-10)) as number[])[0]).toBe(0)
  expect(((await run(5)) as number[])[0]).toBe(5)
  expect(((await run(1)) as number[])[0]).toBe(6)
  expect(await redis.get(key)).toBe('5')
  await redis.persist(key)
  expect(await run(1)).toEqual([6, 60_000, expect.any(Number)])
  expect(await redis.pttl(key)).toBeGreaterThan(59_000)
})

test('a key that holds something else: decided here, reported, and nobody gets in unlimited', async () => {
  const ctx = worker(sharedRedis().url, testNamespace())
  const redis = sharedRedisClient()
  const heard = events()
  for (const algorithm of ['sliding-window', 'fixed-window'] as const) {
    const limiter = createRateLimiter(ctx, { name: algorithm, limit: 3, per: '1h', algorithm })
    await limiter.consume('k')
    const [key = ''] = await redis.keys(`${ctx.keys.namespace}:r:{k}${algorithm}:*`)
    await redis.del(key)
    await redis.lpush(key, 'not a count')
    const decisions = await Promise.all(Array.from({ length: 10 }, () => limiter.consume('k')))
    expect(new Set(decisions.map(({ source }) => source))).toEqual(new Set(['local']))
    expect(decisions.filter(({ allowed }) => allowed).length).toBeLessThanOrEqual(3)
    expect((await limiter.consume('other')).source).toBe('redis')
  }
  expect(heard.some(({ event }) => event === 'redis-error')).toBe(true)
})

test('decisions are published', async () => {
  const ctx = worker(sharedRedis().url, testNamespace())
  const heard = events()
  const limiter = createRateLimiter(ctx, { name: 'told', limit: 1, per: '1h' })
  await limiter.consume('k')
  await limiter.peek('k')
  await limiter.consume('k')
  expect(heard).toMatchObject([
    { event: 'decision', key: 'k', cost: 1, allowed: true, source: 'redis', policy: { name: 'told' } },
    { event: 'decision', key: 'k', cost: 1, allowed: false, source: 'redis' },
  ])
})

test('nearLimit counts what is admitted with less than a fifth left, and nothing else', async () => {
  const ctx = worker(sharedRedis().url, testNamespace())
  for (let attempt = 1; ; attempt++) {
    const heard = events()
    const name = `near-${attempt}`
    const limiter = createRateLimiter(ctx, { name, limit: 10, per: '1h', onUnavailable: 'deny' })
    for (let round = 0; round < 12; round++) await limiter.consume('k')
    const { allowed, refused, nearLimit, sources } = limiter.stats()
    if (sources.none > 0 && attempt < 10) continue // Redis did not answer in time, on a busy machine
    const told = heard.flatMap((each) => (each.nearLimit ? [[each.allowed, each.remaining]] : []))
    expect(told).toEqual([
      [true, 1],
      [true, 0],
    ])
    expect({ allowed, refused, nearLimit }).toEqual({ allowed: 10, refused: 2, nearLimit: 2 })
    expect(sources).toMatchObject({ redis: 11, known: 1 })
    break
  }
})

test('a limit that is raised in another process admits there at once, and is not held up by what is refused here', async () => {
  const namespace = testNamespace()
  const limiterOf = (limit: number) =>
    createRateLimiter(worker(sharedRedis().url, namespace), { name: 'n', limit, per: '1h' })
  const [before, after] = [limiterOf(2), limiterOf(3)]
  const allowed = async (limiter: typeof before, limit?: number): Promise<boolean> =>
    (await limiter.consume('k', limit === undefined ? {} : { limit })).allowed
  expect([await allowed(before), await allowed(before), await allowed(before)]).toEqual([true, true, false])
  expect((await before.consume('k')).source).toBe('known')
  expect([await allowed(after), await allowed(after)]).toEqual([true, false])
  // The same process, told a higher limit with the call: what is known of the lower one is not asked.
  expect([await allowed(before, 4), await allowed(before, 4)]).toEqual([true, false])
  // What makes room in one process is believed in all.
  await after.reset('k')
  await until(() => allowed(before), { what: 'the reset to be heard' })
})

test('what is given back after a reset is no more than what has been charged since', async () => {
  const ctx = worker(sharedRedis().url, testNamespace())
  for (const algorithm of ['sliding-window', 'gcra', 'fixed-window'] as const) {
    const limiter = createRateLimiter(ctx, { name: algorithm, limit: 5, per: '1h', algorithm })
    const before = await limiter.consume('k', { cost: 3 })
    await limiter.reset('k')
    await limiter.consume('k')
    await limiter.refund(before)
    const allowed = []
    for (let round = 0; round < 7; round++) allowed.push((await limiter.consume('k')).allowed)
    expect(allowed.filter(Boolean).length, algorithm).toBeLessThanOrEqual(5)
    expect(allowed.filter(Boolean).length, algorithm).toBeGreaterThanOrEqual(4) // a fixed window begins with the reset
    expect(allowed.at(-1), algorithm).toBe(false)
  }
})

test('the ACL of the README is enough', async () => {
  const server = await startRedis()
  const namespace = testNamespace()
  const readme = (room: string): string[] => {
    const text = readFileSync(new URL(`../../src/${room}/README.md`, import.meta.url), 'utf8')
    const line = text.split('\n').find((each) => /^\| ACL\b/.test(each)) as string
    const rules = [...line.matchAll(/`([~&+][^`]*)`/g)].flatMap(([, part]) => (part as string).split(' '))
    return rules.map((rule) => rule.replace('<namespace>', namespace).replaceAll('\\|', '|'))
  }
  // Redis 7.0 knows no SETINFO, and ioredis takes a refusal of it for an answer.
  const rules = [...readme('bus').filter((rule) => !rule.startsWith('~')), ...readme('rate-limit')]
  await server
    .client()
    .call(
      'ACL',
      'SETUSER',
      'app',
      'on',
      '>pw',
      'resetchannels',
      '-@all',
      ...rules.filter((rule) => rule !== '+client|setinfo'),
    )
  const ctx = worker(server.url.replace('//', '//app:pw@'), namespace)
  const heard = events()
  const all: RateLimiterOptions[] = [
    { name: 's', limit: 10, per: '1m' },
    { name: 'g', limit: 10, per: '1m', algorithm: 'gcra' },
    { name: 'f', limit: 10, per: '1m', algorithm: 'fixed-window' },
    { name: 'fb', limit: 10, per: '1m', algorithm: 'fixed-window', blockFor: '1m' },
    { name: 'l', limit: 10, per: '1m', lease: true },
    { name: 'gl', limit: 10, per: '1m', algorithm: 'gcra', lease: true },
    { name: 'fl', limit: 10, per: '1m', algorithm: 'fixed-window', lease: true },
    { name: 'c', limit: 10, algorithm: 'concurrency' },
  ]
  /** Again when Redis did not answer in time, on a busy machine; a refused command never becomes an answer. */
  const steadily = (what: string, call: () => Promise<unknown>): Promise<unknown> =>
    until(
      async () => {
        const decision = await call().then(
          (done) => (typeof done === 'object' ? done : {}),
          () => ({ source: 'none' }),
        )
        return (decision as { source?: string }).source !== 'none'
      },
      { what },
    )
  for (const options of all) {
    const { name } = options
    const limiter = createRateLimiter(ctx, { onUnavailable: 'deny', ...options })
    for (let round = 0; round < 12; round++) await steadily(`${name}: consume`, () => limiter.consume('k'))
    await steadily(`${name}: peek`, () => limiter.peek('k'))
    const decision = await limiter.consume('other')
    await steadily(`${name}: refund`, () => limiter.refund(decision))
    if (options.algorithm !== 'concurrency') {
      await steadily(`${name}: penalty`, () => limiter.penalty('other', 2))
      await steadily(`${name}: block`, () => limiter.block('other', '1m'))
    }
    await steadily(`${name}: reset`, () => limiter.reset('k'))
  }
  const several = createRateLimiter(
    ctx,
    [
      { name: 'a', limit: 3, per: '1m' },
      { name: 'b', limit: 5, per: '1h' },
    ],
    { onUnavailable: 'deny' },
  )
  for (let round = 0; round < 5; round++) await steadily('several', () => several.consume('k'))
  expect(heard.filter(({ event }) => event === 'redis-error')).toEqual([])
})

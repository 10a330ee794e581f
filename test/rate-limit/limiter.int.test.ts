import { expect, test } from 'vitest'
import { FIXED_WINDOW_LUA } from '../../src/rate-limit/fixed-window.ts'
import { createRateLimiter } from '../../src/rate-limit/index.ts'
import { sharedRedis, sharedRedisClient, startRedisCluster, testNamespace } from '../helpers/redis.ts'
import { rateLimitSuite } from '../suites/rate-limit-suite.ts'
import { events, worker } from './app.ts'

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
  for (const limiter of limiters) await limiter.consume('warm')
  const looker = sharedRedisClient()
  const monitor = await looker.monitor()
  const sent: string[] = []
  monitor.on('monitor', (_time, [command = '', ...args]: string[], source: string) => {
    if (source !== 'lua' && args.some((arg) => arg.includes(ctx.keys.namespace) && !arg.includes(':b:')))
      sent.push(command)
  })
  for (const limiter of limiters)
    expect((await limiter.consume('k')).remaining).toBe(limiter.policy.limit - 1)
  await new Promise((resolve) => setTimeout(resolve, 50))
  monitor.disconnect()
  expect(sent.map((command) => command.toLowerCase())).toEqual(['evalsha', 'evalsha', 'evalsha', 'evalsha'])
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

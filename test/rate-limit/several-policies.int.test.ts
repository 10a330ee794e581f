import { RateLimiterRedis, RateLimiterUnion } from 'rate-limiter-flexible'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import type { SharedContext } from '../../src/context.ts'
import {
  createRateLimit,
  createRateLimiter,
  type RateLimitPolicyOptions,
} from '../../src/rate-limit/index.ts'
import { get } from '../helpers/http.ts'
import { sharedRedis, sharedRedisClient, startRedisCluster, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { app, ttls, worker } from './app.ts'
import { parseList } from './structured-fields.ts'

vi.mock(import('../../src/redis/deadlines.ts'), async (original) =>
  (await import('./patience.ts')).patiently(original),
)

const burst: RateLimitPolicyOptions = { name: 'burst', limit: 3, per: '1h' }
const daily: RateLimitPolicyOptions = { name: 'daily', limit: 5, per: '1d', algorithm: 'gcra' }

describe.each(['one Redis', 'a 3-master Cluster'])('several policies on %s', (where) => {
  let url: string
  let ctx: SharedContext

  beforeAll(async () => {
    url = where === 'one Redis' ? sharedRedis().url : (await startRedisCluster()).url
    ctx = worker(url, testNamespace())
    await ctx.redis.ready()
  })

  const fresh = (...policies: RateLimitPolicyOptions[]) => {
    const own = worker(url, testNamespace())
    return { own, limiter: createRateLimiter(own, policies, { onUnavailable: 'deny' }) }
  }

  test('all are charged, or none is', async () => {
    const { own, limiter } = fresh(burst, daily)
    expect(await limiter.consume('k', { cost: 3 })).toMatchObject({
      allowed: true,
      remaining: 0,
      policy: { name: 'burst' },
      policies: [{ remaining: 0 }, { remaining: 2 }],
    })
    expect(await limiter.consume('k')).toMatchObject({
      allowed: false,
      policy: { name: 'burst' },
      policies: [
        { allowed: false, policy: { name: 'burst' } },
        { allowed: true, remaining: 2, policy: { name: 'daily' } },
      ],
    })
    // The one that stands first has room and the last has none: the first gets back what it took.
    const other = createRateLimiter(own, [{ name: 'wide', limit: 50, per: '1h' }, daily, burst])
    for (let round = 0; round < 3; round++) {
      expect((await other.consume('k', { cost: 2 })).allowed).toBe(false)
      await other.peek('k')
    }
    expect(await other.peek('k')).toMatchObject({
      policies: [{ remaining: 50 }, { remaining: 2 }, { remaining: 0 }],
    })
    // A policy is the same one when it stands alone.
    expect(await createRateLimiter(own, daily as never).peek('k')).toMatchObject({ remaining: 2 })
    for (const [key, ttl] of await ttls(own)) expect(ttl, key).toBeGreaterThan(0)
  })

  test('50 at once from two processes: as many as the strictest admits, and no more are charged', async () => {
    const { own, limiter } = fresh(burst, daily)
    const second = createRateLimiter(worker(url, own.keys.namespace), [burst, daily], {
      onUnavailable: 'deny',
    })
    const decisions = await Promise.all(
      Array.from({ length: 50 }, (_, index) => (index % 2 ? limiter : second).consume('k')),
    )
    // An answer that comes after 100 ms counts as none, on a machine with no CPU to spare.
    const late = decisions.filter(({ source }) => source === 'none').length
    const admitted = decisions.filter(({ allowed }) => allowed).length
    expect(admitted).toBeLessThanOrEqual(3)
    expect(admitted + late).toBeGreaterThanOrEqual(3)
    // Answered by Redis: a test process starved of CPU decides by itself, and says so.
    const peeked = await until(
      async () => {
        const state = await limiter.peek('k')
        return state.source !== 'none' && state
      },
      { what: 'an answer from Redis' },
    )
    expect(peeked.policies).toMatchObject([{ remaining: 0 }, { remaining: 2 }])
  })

  test('refund, block, penalty and reset are for all of them', async () => {
    const { limiter } = fresh(burst, daily)
    const decision = await limiter.consume('k', { cost: 3 })
    expect(await limiter.refund(decision)).toBe(true)
    expect((await limiter.peek('k')).policies).toMatchObject([{ remaining: 3 }, { remaining: 5 }])
    await limiter.penalty('k', 4)
    expect((await limiter.peek('k')).policies).toMatchObject([{ remaining: 0 }, { remaining: 1 }])
    await limiter.block('k', '1m')
    expect((await limiter.peek('k')).policies).toMatchObject([{ allowed: false }, { allowed: false }])
    await limiter.reset('k')
    expect((await limiter.peek('k')).policies).toMatchObject([{ remaining: 3 }, { remaining: 5 }])
  })

  test('headers name all, a refusal those it violates, Retry-After is the latest of them', async () => {
    const own = worker(url, testNamespace())
    await own.redis.ready()
    const visit = await app(createRateLimit(own, [burst, daily], { onUnavailable: 'deny' }))
    const first = await get(visit)
    expect(parseList(first.headers['ratelimit-policy'] as string)).toEqual([
      { value: 'burst', params: { q: 3, w: 3_600 } },
      { value: 'daily', params: { q: 5, w: 86_400 } },
    ])
    expect(parseList(first.headers.ratelimit as string).map(({ params }) => params.r)).toEqual([2, 4])
    await get(visit)
    await get(visit)
    const refused = await get(visit)
    expect(refused.status).toBe(429)
    expect(refused.json()).toMatchObject({ 'violated-policies': ['burst'] })
    const items = parseList(refused.headers.ratelimit as string)
    expect(items[1]).toEqual({ value: 'daily', params: { r: 2 } })
    for (const { params } of items) {
      expect(Number(refused.headers['retry-after'])).toBeGreaterThanOrEqual(Number(params.t ?? 0))
    }
  })
})

test('control: RateLimiterUnion charges the siblings of what it refuses', async () => {
  const storeClient = sharedRedisClient()
  const keyPrefix = testNamespace()
  const [one, two] = [1, 20].map(
    (points) =>
      new RateLimiterRedis({ storeClient, points, duration: 60, keyPrefix: `${keyPrefix}${points}` }),
  ) as [RateLimiterRedis, RateLimiterRedis]
  const union = new RateLimiterUnion(one, two)
  for (let round = 0; round < 10; round++) await union.consume('k').catch(() => {})
  expect((await two.get('k'))?.consumedPoints).toBe(10) // one was admitted
})

test('mistakes are named', () => {
  const ctx = worker('redis://127.0.0.1:1', 'several')
  const mistakes = (...args: unknown[]): string => {
    try {
      createRateLimit(ctx, ...(args as [never, never]))
    } catch (error) {
      return (error as Error).message
    }
    return ''
  }
  expect(mistakes([])).toContain('takes 1 to 16 policies in an array, got 0')
  expect(mistakes([burst, burst])).toContain(
    "needs a name of its own for each policy, 'burst' is there twice",
  )
  expect(
    mistakes([
      { name: 'a', limit: 0, per: '1s' },
      { name: 'b', limt: 1, per: '1s' },
    ]),
  ).toMatch(
    /rateLimit\[0\]: limit must be.*rateLimit\[1\]: limit is required.*limt is not an option; did you mean limit/,
  )
  expect(mistakes([burst, { ...daily, algorithm: 'concurrency' }])).toContain(
    "cannot decide 'concurrency' together",
  )
  expect(mistakes([burst, { ...daily, algorithm: 'fixed-window' }])).toContain(
    "cannot decide 'fixed-window' together",
  )
  expect(mistakes([burst, daily], { cost: 4 })).toContain('cost must be a whole number from 1 to 3, got 4')
  expect(mistakes([burst, daily], { lease: true })).toContain('lease is for a single policy')
  expect(mistakes({ limit: 1, per: 1 }, {})).toContain('takes a second argument only after an array')
})

test('while Redis is away: all or none here too, each with its share', async () => {
  const limiter = createRateLimiter(worker('redis://127.0.0.1:1', 'away'), [burst, daily])
  const allowed: boolean[] = []
  for (let round = 0; round < 5; round++) allowed.push((await limiter.consume('k')).allowed)
  expect(allowed).toEqual([true, true, true, false, false])
  await until(async () => (await limiter.peek('k')).source === 'local', { what: 'a local look' })
  expect((await limiter.peek('k')).policies).toMatchObject([{ remaining: 0 }, { remaining: 2 }])
})

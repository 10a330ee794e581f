import http, { type ServerResponse } from 'node:http'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import type { SharedContext } from '../../src/context.ts'
import { createRateLimit, createRateLimiter, type RateLimitDecision } from '../../src/rate-limit/index.ts'
import { get } from '../helpers/http.ts'
import {
  sharedRedis,
  sharedRedisClient,
  startRedis,
  startRedisCluster,
  testNamespace,
} from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { serve, ttls, worker } from './app.ts'
import { parseList } from './structured-fields.ts'

vi.mock(import('../../src/redis/deadlines.ts'), async (original) =>
  (await import('./patience.ts')).patiently(original),
)

const options = {
  name: 'flight',
  limit: 3,
  per: '2s',
  algorithm: 'concurrency',
  onUnavailable: 'deny',
} as const

describe.each(['one Redis', 'a 3-master Cluster'])('concurrency on %s', (where) => {
  let url: string
  let one: SharedContext
  let two: SharedContext

  beforeEach(async () => {
    url = where === 'one Redis' ? sharedRedis().url : (await startRedisCluster()).url
    const namespace = testNamespace()
    one = worker(url, namespace)
    two = worker(url, namespace)
    await Promise.all([one.redis.ready(), two.redis.ready()])
  })

  test('as many at once as the limit says, over all processes; what ends makes room', async () => {
    const [a, b] = [createRateLimiter(one, options), createRateLimiter(two, options)]
    await steadily(async (key) => {
      const decisions = await Promise.all(
        Array.from({ length: 40 }, (_, index) => (index % 2 ? a : b).consume(key)),
      )
      counted(...decisions)
      const inFlight = decisions.flatMap((decision, index) =>
        decision.allowed ? [{ decision, by: index % 2 ? a : b }] : [],
      )
      expect(inFlight).toHaveLength(3)
      expect(counted(await a.peek(key))).toMatchObject([{ allowed: false, remaining: 0 }])
      const [first] = inFlight
      expect(await first?.by.refund(first.decision)).toBe(true)
      expect(await first?.by.refund(first.decision)).toBe(false)
      await until(async () => (await b.peek(key)).remaining === 1, { what: 'room for one' })
      expect(counted(await b.consume(key, { cost: 2 }))).toMatchObject([{ allowed: false }])
      expect(counted(await b.consume(key))).toMatchObject([{ allowed: true }])
    })
    for (const [key, ttl] of await ttls(one)) expect(ttl, key).not.toBe(-1)
  })

  test('it is held for as long as it lasts, and freed when its process is gone', async () => {
    const [a, b] = [createRateLimiter(one, options), createRateLimiter(two, options)]
    await steadily(async (key) => {
      counted(await a.consume(key, { cost: 3 }))
      let lookedAt = performance.now()
      const late = lookedAt + 3_000 // half as long again as without a heartbeat
      while (performance.now() < late) {
        const { allowed } = await b.consume(key)
        if (performance.now() - lookedAt > 1_000) throw new Hiccup('no heartbeat, this process stood still')
        lookedAt = performance.now()
        expect(allowed).toBe(false)
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
      await one.closing.close()
      await until(async () => (await b.consume(key)).allowed, { what: 'room' })
    })
  })
})

test('what a killed process held is free when its heartbeat has failed to come, also while others go on', async () => {
  const ctx = worker(sharedRedis().url, testNamespace())
  const limiter = createRateLimiter(ctx, options)
  await until(async () => (await limiter.consume('k')).source === 'redis', { what: 'a slot' })
  const client = sharedRedisClient()
  const [seconds, microseconds] = (await client.time()).map(Number) as [number, number]
  const dead = Buffer.alloc(16)
  dead.writeDoubleBE(2, 0)
  dead.writeDoubleBE(seconds * 1_000 + Math.floor(microseconds / 1_000) + 2_000, 8)
  await client.hset(ctx.keys.tagged('rate-limit', 'k', 'flight:c2000'), 'killed.0', dead)
  expect((await limiter.peek('k', { cost: 2 })).allowed).toBe(false)
  const free = async () => (await limiter.consume('k', { cost: 2 })).allowed
  await until(free, { what: 'its slots to be free' })
})

class Hiccup extends Error {}

/** On a busy machine Redis does not always answer in time; what is tested here is what it answers. */
function counted(...decisions: RateLimitDecision[]): RateLimitDecision[] {
  if (decisions.some(({ source }) => source === 'none')) throw new Hiccup('Redis did not answer in time')
  return decisions
}

/** With a key of its own for each attempt. */
async function steadily(attempt: (key: string) => Promise<void>): Promise<void> {
  for (let left = 10; ; left--) {
    try {
      return await attempt(`key-${left}`)
    } catch (error) {
      if (!(error instanceof Hiccup) || left === 0) throw error
      await new Promise((resolve) => setTimeout(resolve, 300))
    }
  }
}

test('a hiccup in which replies are lost leaves no slot behind', async () => {
  const redis = await startRedis()
  const ctx = worker(redis.url, testNamespace())
  const limiter = createRateLimiter(ctx, options)
  await until(async () => (await limiter.peek('k')).source === 'redis', { what: 'Redis' })
  let held = await limiter.consume('k')
  while (held.source === 'none') held = await limiter.consume('k')
  await redis.pause()
  const lost = await Promise.all([limiter.consume('k'), limiter.consume('k'), limiter.refund(held)])
  expect(lost.slice(0, 2)).toMatchObject([{ source: 'none' }, { source: 'none' }])
  await redis.resume()
  await until(async () => (await limiter.peek('k', { cost: 3 })).allowed, { what: 'all slots to be free' })
})

test('while Redis is away each process has its share', async () => {
  const limiter = createRateLimiter(worker('redis://127.0.0.1:1', 'away'), {
    ...options,
    onUnavailable: 'local',
  })
  const decisions = [
    await limiter.consume('k'),
    await limiter.consume('k', { cost: 2 }),
    await limiter.consume('k'),
  ]
  expect(decisions.map(({ allowed, source }) => [allowed, source])).toMatchObject([
    [true, 'local'],
    [true, 'local'],
    [false, expect.anything()],
  ])
  await limiter.refund(decisions[0] as never)
  expect((await limiter.consume('k')).allowed).toBe(true)
})

test('the middleware holds a slot until the response is over, also when the client goes', async () => {
  const ctx = worker(sharedRedis().url, testNamespace())
  const middleware = createRateLimit(ctx, {
    limit: 2,
    algorithm: 'concurrency',
    key: () => 'all',
    onUnavailable: 'deny',
  })
  const waiting: ServerResponse[] = []
  const url = await serve((req, res) =>
    middleware(req, res, (error) => (error ? res.destroy() : waiting.push(res))),
  )
  const gone = http.get(url)
  gone.on('error', () => {})
  const answered = get(url)
  await until(() => waiting.length === 2, { what: 'two in flight' })
  const refused = await get(url)
  expect([refused.status, refused.headers['ratelimit-policy']]).toEqual([
    429,
    '"default";q=2;qu="concurrent-requests"',
  ])
  expect(parseList(refused.headers.ratelimit as string)).toEqual([{ value: 'default', params: { r: 0 } }])
  expect(refused.headers['retry-after']).toBe('1')
  gone.destroy()
  for (const res of waiting) if (!res.destroyed) res.end('done')
  await answered
  const limiter = createRateLimiter(ctx, { limit: 2, algorithm: 'concurrency' })
  await until(async () => (await limiter.peek('all')).remaining === 2, { what: 'both slots to be free' })
})

test.each([{ blockFor: '1s' }, { lease: true }, { burst: 2 }, { skipFailed: true }, { per: '10ms' }])(
  '%o is refused',
  (wrong) => {
    const ctx = worker('redis://127.0.0.1:1', 'options')
    expect(() => createRateLimit(ctx, { limit: 2, algorithm: 'concurrency', ...(wrong as object) })).toThrow(
      /rateLimit: \w+ /,
    )
  },
)

import express from 'express'
import { rateLimit } from 'express-rate-limit'
import { RateLimiterRedis } from 'rate-limiter-flexible'
import { expect, test, vi } from 'vitest'
import { createRateLimiter, type RateLimitAlgorithm } from '../../src/rate-limit/index.ts'
import { get, keepAliveAgent } from '../helpers/http.ts'
import { sharedRedis, sharedRedisClient, testNamespace } from '../helpers/redis.ts'
import { type Admission, mostWithin } from './admissions.ts'
import { serve, worker } from './app.ts'

vi.mock(import('../../src/redis/deadlines.ts'), async (original) =>
  (await import('./patience.ts')).patiently(original),
)

const limit = 100
const perMs = 1_000

type Consume = (key: string) => Promise<boolean>

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** A burst just before the first window ends and one just after; `key` is a client who has not come before. */
async function acrossTheEdge(consume: Consume, key: string): Promise<Admission[]> {
  const admissions: Admission[] = []
  const burst = async (count: number): Promise<void> => {
    const one = async (): Promise<void> => {
      const sentAt = performance.now()
      if (await consume(key)) admissions.push({ sentAt, answeredAt: performance.now(), cost: 1 })
    }
    await Promise.all(Array.from({ length: count }, one))
  }
  await burst(1) // opens the window
  const opened = performance.now()
  await sleep(perMs - 150)
  await burst(limit)
  await sleep(opened + perMs + 10 - performance.now())
  await burst(limit)
  return admissions
}

/** The worst second. A machine that stands still misses the edge: then again, until more than the limit has been seen. */
async function worstSecond(consume: Consume): Promise<number> {
  let worst = 0
  for (let attempt = 1; worst <= limit && attempt <= 10; attempt++)
    worst = mostWithin(perMs, await acrossTheEdge(consume, `client-${attempt}`))
  return worst
}

function ours(algorithm: RateLimitAlgorithm, processes: number) {
  const namespace = testNamespace()
  const contexts = Array.from({ length: processes }, () => worker(sharedRedis().url, namespace))
  // 'deny': what is measured is what Redis admits.
  const clients = contexts.map((ctx): Consume => {
    const limiter = createRateLimiter(ctx, { limit, per: perMs, algorithm, onUnavailable: 'deny' })
    return async (key) => (await limiter.consume(key)).allowed
  })
  const ready = () =>
    Promise.all(contexts.flatMap((ctx) => [ctx.redis.ready(), ctx.connect('rate-limit').ready()]))
  return { clients, ready }
}

function theirs(): Consume {
  const limiter = new RateLimiterRedis({
    storeClient: sharedRedisClient(),
    points: limit,
    duration: perMs / 1_000,
    keyPrefix: testNamespace(),
  })
  return (key) =>
    limiter.consume(key).then(
      () => true,
      () => false,
    )
}

/** The middleware of express-rate-limit with its own store, which counts as its Redis store does: by fixed windows. */
async function expressRateLimit(): Promise<Consume> {
  const server = express()
  const keyGenerator = (req: express.Request): string => req.get('x-key') ?? ''
  server.use(rateLimit({ limit, windowMs: perMs, validate: false, keyGenerator }))
  server.use((_req, res) => void res.end())
  const url = await serve(server)
  const agent = keepAliveAgent(50)
  return async (key) => (await get(url, { agent, headers: { 'x-key': key } })).status === 200
}

test('the worst second of limit 100 / 1 s: 100 with sliding-window, 199 with fixed windows, theirs and ours', async () => {
  const algorithms = ['sliding-window', 'gcra', 'fixed-window'] as const
  const own = algorithms.map((algorithm) => ({ algorithm, ...ours(algorithm, 1) }))
  await Promise.all(own.map(({ ready }) => ready()))
  const worst: Record<string, number> = {}
  // They keep no one busy but for a moment: together, but for the one that answers over HTTP.
  await Promise.all([
    ...own.map(async ({ algorithm, clients: [consume] }) => {
      const once = algorithm !== 'fixed-window' // more than the limit is not to be waited for
      worst[algorithm] = once
        ? mostWithin(perMs, await acrossTheEdge(consume as Consume, 'client'))
        : await worstSecond(consume as Consume)
    }),
    worstSecond(theirs()).then((most) => {
      worst['rate-limiter-flexible'] = most
    }),
  ])
  worst['express-rate-limit'] = await worstSecond(await expressRateLimit())
  console.info('[bound] worst second of limit 100 / 1 s', worst)
  expect(worst['sliding-window']).toBeLessThanOrEqual(limit)
  expect(worst.gcra).toBeLessThanOrEqual(limit + limit) // burst + limit t, for t = 1 s
  for (const fixed of ['fixed-window', 'rate-limiter-flexible', 'express-rate-limit']) {
    expect(worst[fixed], fixed).toBeGreaterThan(limit) // or the test would not look where it happens
    expect(worst[fixed], fixed).toBeLessThanOrEqual(2 * limit)
  }
})

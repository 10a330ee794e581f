import express from 'express'
import { rateLimit } from 'express-rate-limit'
import { RateLimiterRedis } from 'rate-limiter-flexible'
import { expect, test } from 'vitest'
import { createRateLimiter, type RateLimitAlgorithm } from '../../src/rate-limit/index.ts'
import { get, keepAliveAgent } from '../helpers/http.ts'
import { sharedRedis, sharedRedisClient, testNamespace } from '../helpers/redis.ts'
import { type Admission, mostWithin } from './admissions.ts'
import { serve, worker } from './app.ts'

const limit = 100
const perMs = 1_000

type Consume = (cost: number) => Promise<boolean>

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** A burst just before the first window ends and one just after. */
async function acrossTheEdge(consume: Consume): Promise<Admission[]> {
  const admissions: Admission[] = []
  const burst = async (count: number): Promise<void> => {
    const one = async (): Promise<void> => {
      const sentAt = performance.now()
      if (await consume(1)) admissions.push({ sentAt, answeredAt: performance.now(), cost: 1 })
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

function ours(algorithm: RateLimitAlgorithm, processes: number) {
  const namespace = testNamespace()
  const contexts = Array.from({ length: processes }, () => worker(sharedRedis().url, namespace))
  // 'deny': what is measured is what Redis admits.
  const clients = contexts.map((ctx): Consume => {
    const limiter = createRateLimiter(ctx, { limit, per: perMs, algorithm, onUnavailable: 'deny' })
    return async (cost) => (await limiter.consume('client', { cost })).allowed
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
  return (cost) =>
    limiter.consume('client', cost).then(
      () => true,
      () => false,
    )
}

/** The middleware of express-rate-limit with its own store, which counts as its Redis store does: by fixed windows. */
async function expressRateLimit(): Promise<Consume> {
  const server = express()
  server.use(rateLimit({ limit, windowMs: perMs, validate: false }))
  server.use((_req, res) => void res.end())
  const url = await serve(server)
  const agent = keepAliveAgent(50)
  return async () => (await get(url, { agent })).status === 200
}

test('the worst second of limit 100 / 1 s: 100 with sliding-window, 199 with fixed windows, theirs and ours', async () => {
  const worst: Record<string, number> = {}
  for (const algorithm of ['sliding-window', 'gcra', 'fixed-window'] as const) {
    const { clients, ready } = ours(algorithm, 1)
    await ready()
    worst[algorithm] = mostWithin(perMs, await acrossTheEdge(clients[0] as Consume))
  }
  worst['rate-limiter-flexible'] = mostWithin(perMs, await acrossTheEdge(theirs()))
  worst['express-rate-limit'] = mostWithin(perMs, await acrossTheEdge(await expressRateLimit()))
  console.info('[bound] worst second of limit 100 / 1 s', worst)
  expect(worst['sliding-window']).toBeLessThanOrEqual(limit)
  expect(worst.gcra).toBeLessThanOrEqual(limit + limit) // burst + limit t, for t = 1 s
  for (const fixed of ['fixed-window', 'rate-limiter-flexible', 'express-rate-limit']) {
    expect(worst[fixed], fixed).toBeGreaterThan(limit) // or the test would not look where it happens
    expect(worst[fixed], fixed).toBeLessThanOrEqual(2 * limit)
  }
})

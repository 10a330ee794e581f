import { RateLimiterRedis } from 'rate-limiter-flexible'
import { expect, test } from 'vitest'
import { createRateLimiter, type RateLimitAlgorithm } from '../../src/rate-limit/index.ts'
import { fileRng, type Rng } from '../helpers/random.ts'
import { sharedRedis, sharedRedisClient, testNamespace } from '../helpers/redis.ts'
import { type Admission, mostWithin } from './admissions.ts'
import { ttls, worker } from './app.ts'

const limit = 100
const perMs = 1_000

type Consume = (cost: number) => Promise<boolean>

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Several clients who want more than they get, with pauses and bursts of their own. */
async function press(clients: readonly Consume[], rng: Rng, forMs: number): Promise<Admission[]> {
  const admissions: Admission[] = []
  const end = performance.now() + forMs
  await Promise.all(
    clients.map(async (consume, index) => {
      const own = rng.fork(String(index))
      while (performance.now() < end) {
        await Promise.all(
          Array.from({ length: own.int(1, 12) }, async () => {
            const cost = own.int(1, 4)
            const sentAt = performance.now()
            if (await consume(cost)) admissions.push({ sentAt, answeredAt: performance.now(), cost })
          }),
        )
        await sleep(own.pick([0, 1, 5, 30, own.int(0, 150)]))
      }
    }),
  )
  return admissions
}

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
  return { clients, ready, ctx: contexts[0] as (typeof contexts)[0] }
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

test('random costs, bursts and pauses from four processes: sliding-window never exceeds the limit in any window', async () => {
  const { clients, ready, ctx } = ours('sliding-window', 4)
  await ready()
  const admissions = await press(clients, fileRng(), 6_000)
  const most = mostWithin(perMs, admissions)
  const total = admissions.reduce((sum, { cost }) => sum + cost, 0)
  console.info(`[bound] sliding-window: worst second ${most} of ${limit}, ${total} in 6 s`)
  expect(most).toBeLessThanOrEqual(limit)
  expect(total).toBeGreaterThan(limit * 3) // it does admit
  for (const [key, ttl] of await ttls(ctx)) expect(ttl, key).not.toBe(-1)
})

test('random costs, bursts and pauses from four processes: fixed-window never exceeds twice the limit', async () => {
  const { clients, ready, ctx } = ours('fixed-window', 4)
  await ready()
  const admissions = await press(clients, fileRng(), 6_000)
  const most = mostWithin(perMs, admissions)
  console.info(`[bound] fixed-window: worst second ${most} of ${limit}`)
  expect(most).toBeLessThanOrEqual(2 * limit)
  for (const [key, ttl] of await ttls(ctx)) expect(ttl, key).not.toBe(-1)
})

test('the worst second across a window edge: 100 with sliding-window, 199 with fixed windows, theirs and ours', async () => {
  const worst: Record<string, number> = {}
  for (const algorithm of ['sliding-window', 'fixed-window'] as const) {
    const { clients, ready } = ours(algorithm, 1)
    await ready()
    worst[algorithm] = mostWithin(perMs, await acrossTheEdge(clients[0] as Consume))
  }
  worst['rate-limiter-flexible'] = mostWithin(perMs, await acrossTheEdge(theirs()))
  console.info('[bound] worst second of limit 100 / 1 s', worst)
  expect(worst['sliding-window']).toBeLessThanOrEqual(limit)
  for (const fixed of ['fixed-window', 'rate-limiter-flexible']) {
    expect(worst[fixed], fixed).toBeGreaterThan(limit) // or the test would not look where it happens
    expect(worst[fixed], fixed).toBeLessThanOrEqual(2 * limit)
  }
})

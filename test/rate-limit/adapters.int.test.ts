import type http from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import express from 'express'
import { rateLimit } from 'express-rate-limit'
import fastify from 'fastify'
// @ts-expect-error it has no types, and we need none
import Koa from 'koa'
import { RateLimiterRes, RateLimiterUnion } from 'rate-limiter-flexible'
import { beforeEach, expect, test, vi } from 'vitest'
import type { SharedContext } from '../../src/context.ts'
import {
  createRateLimit,
  createRateLimiter,
  expressRateLimitStore,
  flexibleLimiter,
  ipKey,
} from '../../src/rate-limit/index.ts'
import { track } from '../helpers/cleanup.ts'
import { get } from '../helpers/http.ts'
import { sharedRedis, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { serve, worker } from './app.ts'

interface KoaContext {
  req: IncomingMessage
  res: ServerResponse
  ip: string
  body: string
  respond: boolean
}

vi.mock(import('../../src/redis/deadlines.ts'), async (original) =>
  (await import('./patience.ts')).patiently(original),
)

let ctx: SharedContext

beforeEach(async () => {
  ctx = worker(sharedRedis().url, testNamespace())
  await ctx.redis.ready()
})

const limiterOf = (limit: number, name = 'api') =>
  createRateLimiter(ctx, { name, limit, per: '1h', onUnavailable: 'deny' })

test('express-rate-limit on our store: two apps, one budget, its own headers', async () => {
  const appOf = () => {
    const app = express()
    app.use(
      rateLimit({
        limit: 3,
        windowMs: 3_600_000,
        standardHeaders: 'draft-8',
        store: expressRateLimitStore(limiterOf(3)),
      }),
    )
    app.get('/', (_req, res) => void res.send('ok'))
    return serve(app)
  }
  const [one, two] = [await appOf(), await appOf()]
  const statuses: number[] = []
  for (const url of [one, two, one, two, one]) statuses.push((await get(url)).status)
  expect(statuses).toEqual([200, 200, 200, 429, 429])
  expect((await get(two)).headers.ratelimit).toMatch(/r=0/)
  // Refused ones are not charged.
  expect((await limiterOf(3).peek('127.0.0.1')).retryAfterMs).toBeLessThanOrEqual(3_960_000)
})

test('express-rate-limit: skipFailedRequests, resetKey and get reach us', async () => {
  const limiter = limiterOf(2)
  const store = expressRateLimitStore(limiter)
  const app = express()
  const middleware = rateLimit({ limit: 2, windowMs: 3_600_000, skipFailedRequests: true, store })
  app.use(middleware)
  app.get('/:status', (req, res) => void res.sendStatus(Number(req.params.status)))
  const url = await serve(app)
  for (let visits = 0; visits < 4; visits++) {
    expect((await get(`${url}/500`)).status).toBe(500)
    await until(async () => (await limiter.peek('127.0.0.1')).remaining === 2, {
      what: 'the charge to come back',
    })
  }
  await get(`${url}/200`)
  expect(await middleware.getKey('127.0.0.1')).toMatchObject({ totalHits: 1 })
  middleware.resetKey('127.0.0.1')
  await until(async () => (await limiter.peek('127.0.0.1')).remaining === 2, { what: 'the reset' })
  expect(await store.get('127.0.0.1')).toBeUndefined()
})

test('express-rate-limit with other numbers than ours is told', () => {
  expect(() => expressRateLimitStore(limiterOf(2)).init({ windowMs: 1_000, limit: 2 })).toThrow(
    /windowMs 1000; give both the same/,
  )
  expect(() => expressRateLimitStore(limiterOf(2)).init({ windowMs: 3_600_000, limit: 3 })).toThrow(
    /has limit 3/,
  )
  expressRateLimitStore(limiterOf(2)).init({ windowMs: 3_600_000, limit: () => 1 })
})

test('in the form of rate-limiter-flexible: alone and in a union of theirs', async () => {
  const limiter = await flexibleLimiter(limiterOf(3))
  expect(await limiter.get('k')).toBeNull()
  expect(await limiter.consume('k', 2)).toMatchObject({
    remainingPoints: 1,
    consumedPoints: 2,
    isFirstInDuration: true,
  })
  await expect(limiter.consume('k', 2)).rejects.toBeInstanceOf(RateLimiterRes)
  expect(await limiter.reward('k', 2)).toMatchObject({ remainingPoints: 3 })
  expect(await limiter.penalty('k', 3)).toMatchObject({ remainingPoints: 0 })
  expect(await limiter.set('k', 1, 0)).toMatchObject({ remainingPoints: 2 })
  await limiter.block('k', 60)
  await expect(limiter.consume('k')).rejects.toMatchObject({ remainingPoints: 0 })
  expect(await limiter.delete('k')).toBe(true)
  expect(await limiter.delete('k')).toBe(false)
  // More than ever fits is a refusal to them, and charges nothing.
  await expect(limiter.consume('k', 4)).rejects.toBeInstanceOf(RateLimiterRes)
  const union = new RateLimiterUnion(limiter, await flexibleLimiter(limiterOf(1, 'other')))
  expect(await union.consume('k')).toMatchObject({
    api: { consumedPoints: 1 },
    other: { remainingPoints: 0 },
  })
  await expect(union.consume('k')).rejects.toHaveProperty('other')
})

test('Koa', async () => {
  const limit = createRateLimit(ctx, { limit: 1, per: '1h', onUnavailable: 'deny' })
  const koa = new Koa()
  koa.use(async (context: KoaContext, next: () => Promise<void>) => {
    if (await limit.admit(context.req, context.res, { key: ipKey(context.ip) })) return next()
    context.respond = false
  })
  const downstream = vi.fn()
  koa.use((context: KoaContext) => {
    downstream()
    context.body = 'ok'
  })
  const url = await serve(koa.callback())
  const first = await get(url)
  expect([first.status, first.body, first.headers.ratelimit]).toEqual([
    200,
    'ok',
    expect.stringContaining('r=0'),
  ])
  const refused = await get(url)
  expect([refused.status, refused.headers['content-type']]).toEqual([429, 'application/problem+json'])
  expect(downstream).toHaveBeenCalledOnce()
})

test('Fastify', async () => {
  const limit = createRateLimit(ctx, { limit: 1, per: '1h', onUnavailable: 'deny' })
  const server = fastify<http.Server>({ trustProxy: '127.0.0.1' })
  server.addHook('onRequest', async (request, reply) => {
    if (!(await limit.admit(request.raw, reply.raw, { key: ipKey(request.ip) }))) reply.hijack()
  })
  server.get('/', async () => 'ok')
  const url = await server.listen({ port: 0, host: '127.0.0.1' })
  track({ [Symbol.asyncDispose]: () => server.close() })
  const visit = (address: string) => get(url, { headers: { 'x-forwarded-for': address } })
  const first = await visit('198.51.100.1')
  expect([first.status, first.body, first.headers.ratelimit]).toEqual([
    200,
    'ok',
    expect.stringContaining('r=0'),
  ])
  expect((await visit('::ffff:198.51.100.1')).status).toBe(429)
  expect((await visit('198.51.100.2')).status).toBe(200)
})

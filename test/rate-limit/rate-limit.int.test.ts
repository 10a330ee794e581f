import express, { type Request } from 'express'
import { beforeEach, expect, test, vi } from 'vitest'
import type { SharedContext } from '../../src/context.ts'
import { setProcessRole } from '../../src/core/role.ts'
import { createRateLimit, createRateLimiter, type RateLimitOptions } from '../../src/rate-limit/index.ts'
import { get, request } from '../helpers/http.ts'
import { sharedRedis, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { app, events, serve, worker } from './app.ts'
import { parseList } from './structured-fields.ts'

vi.mock(import('../../src/redis/deadlines.ts'), async (original) =>
  (await import('./patience.ts')).patiently(original),
)

let ctx: SharedContext

beforeEach(async () => {
  ctx = worker(sharedRedis().url, testNamespace())
  await ctx.redis.ready()
})

const limit = (options: Partial<RateLimitOptions> = {}) =>
  createRateLimit(ctx, { limit: 2, per: '1m', ...options })

test('within the limit the request goes on with its decision and its headers', async () => {
  const url = await app(limit())
  const reply = await get(url)
  expect(reply.status).toBe(200)
  expect(reply.json()).toMatchObject({
    allowed: true,
    remaining: 1,
    retryAfterMs: 0,
    source: 'redis',
    policy: { name: 'default', limit: 2, perMs: 60_000, algorithm: 'sliding-window' },
  })
  expect(reply.headers['ratelimit-policy']).toBe('"default";q=2;w=60')
  expect(reply.headers.ratelimit).toMatch(/^"default";r=1;t=6[0-6]$/)
  expect(reply.headers['retry-after']).toBeUndefined()
})

test('above it: 429 with Retry-After, the headers and problem+json, also for HEAD', async () => {
  const url = await app(limit())
  await get(url)
  await get(url)
  const reply = await get(url)
  expect(reply.status).toBe(429)
  expect(reply.headers['content-type']).toBe('application/problem+json')
  expect(reply.json()).toMatchObject({
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    status: 429,
    'violated-policies': ['default'],
  })
  const [item] = parseList(reply.headers.ratelimit as string)
  expect(item).toMatchObject({ value: 'default', params: { r: 0 } })
  expect(Number(reply.headers['retry-after'])).toBeGreaterThanOrEqual(Number(item?.params.t))
  expect(Number(reply.headers['retry-after'])).toBeLessThanOrEqual(66)
  const head = await request(url, { method: 'HEAD' })
  expect([head.status, head.body]).toEqual([429, ''])
})

test.each([
  [
    'draft-7',
    { 'ratelimit-policy': '2;w=60', ratelimit: expect.stringMatching(/^limit=2, remaining=1, reset=6\d$/) },
  ],
  [
    'legacy',
    {
      'x-ratelimit-limit': '2',
      'x-ratelimit-remaining': '1',
      'x-ratelimit-reset': expect.stringMatching(/^\d{10}$/),
    },
  ],
] as const)('headers: %s', async (headers, expected) => {
  expect((await get(await app(limit({ headers })))).headers).toMatchObject(expected)
})

test('headers: false sends none, but a 429 still says when to come back', async () => {
  const url = await app(limit({ headers: false, limit: 1 }))
  expect(Object.keys((await get(url)).headers).filter((name) => name.includes('ratelimit'))).toEqual([])
  const refused = await get(url)
  expect(refused.status).toBe(429)
  expect(refused.headers['retry-after']).toMatch(/^\d+$/)
  expect(refused.headers.ratelimit).toBeUndefined()
})

test('several limits on one request: all of them are listed, the first that refuses answers', async () => {
  const url = await app(limit({ name: 'burst', limit: 2 }), limit({ name: 'daily', limit: 10, per: '1d' }))
  const { headers } = await get(url)
  expect(parseList(headers['ratelimit-policy'] as string)).toEqual([
    { value: 'burst', params: { q: 2, w: 60 } },
    { value: 'daily', params: { q: 10, w: 86_400 } },
  ])
  expect(parseList(headers.ratelimit as string).map(({ params }) => params.r)).toEqual([1, 9])
  await get(url)
  expect((await get(url)).json()).toMatchObject({ 'violated-policies': ['burst'] })
})

test('key, cost and skip see the request and may be asynchronous', async () => {
  const header = (name: string) => async (req: { headers: Record<string, unknown> }) =>
    String(req.headers[name])
  const url = await app(
    limit({
      limit: 10,
      key: header('x-user'),
      cost: async (req) => Number(req.headers['x-cost']),
      skip: async (req) => req.url === '/health',
    }),
  )
  const visit = (user: string, cost: string) => get(url, { headers: { 'x-user': user, 'x-cost': cost } })
  expect((await visit('a', '8')).json()).toMatchObject({ remaining: 2 })
  expect((await visit('a', '3')).status).toBe(429)
  expect((await visit('b', '3')).json()).toMatchObject({ remaining: 7 })
  expect((await visit('a', '2')).json()).toMatchObject({ remaining: 0 })
  for (let visits = 0; visits < 20; visits++) expect((await get(`${url}/health`)).status).toBe(200)
})

test.each<[string, Partial<RateLimitOptions>, string]>([
  [
    'throws',
    {
      key: () => {
        throw new Error('no user')
      },
    },
    'no user',
  ],
  ['rejects', { key: () => Promise.reject(new Error('no user')) }, 'no user'],
  ['gives undefined', { key: () => undefined as never }, 'ERR_AS_ONE_RATE_LIMIT: rate limit'],
  ['gives nothing', { key: () => '' }, 'ERR_AS_ONE_RATE_LIMIT: rate limit'],
  ['gives an object', { key: () => ({}) as never }, 'ERR_AS_ONE_RATE_LIMIT: rate limit'],
])('a key function that %s: an error, never a pass', async (_what, options, message) => {
  const reply = await get(await app(limit(options)))
  expect([reply.status, reply.body]).toEqual([500, expect.stringContaining(message)])
})

test.each([0, -1, 1.5, 3, Number.NaN, '1', undefined])(
  'a cost function that gives %s: an error',
  async (cost) => {
    const reply = await get(await app(limit({ cost: () => cost as number })))
    expect([reply.status, reply.body]).toEqual([
      500,
      expect.stringContaining('cost must be a whole number from 1 to'),
    ])
  },
)

test('onLimit answers instead, with the headers set', async () => {
  const url = await app(
    limit({
      limit: 1,
      onLimit: (_req, res, _next, { policy }) => res.writeHead(418).end(`no more of ${policy.name}`),
    }),
  )
  await get(url)
  const reply = await get(url)
  expect([reply.status, reply.body]).toEqual([418, 'no more of default'])
  expect(reply.headers['retry-after']).toMatch(/^\d+$/)
  expect(reply.headers.ratelimit).toMatch(/r=0/)
  const failing = await app(limit({ limit: 1, onLimit: () => Promise.reject(new Error('oops')) }))
  expect((await get(failing)).body).toContain('oops')
})

test('shadow counts and reports, and refuses nobody', async () => {
  const heard = events()
  const url = await app(limit({ limit: 1, shadow: true }))
  for (const allowed of [true, false, false]) {
    const reply = await get(url)
    expect([reply.status, reply.headers.ratelimit]).toEqual([200, undefined])
    expect(reply.json()).toMatchObject({ allowed })
  }
  expect(heard).toMatchObject([{ allowed: true }, { allowed: false }, { allowed: false }])
})

test('what the application throws in next() is not taken for a limit', async () => {
  const uncaught = vi.fn()
  const before = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.once('uncaughtException', uncaught)
  try {
    const middleware = limit()
    const url = await serve((req, res) => {
      middleware(req, res, () => {
        res.end('answered')
        throw new Error("the application's own")
      })
    })
    expect((await get(url)).body).toBe('answered')
    await vi.waitFor(() => expect(uncaught).toHaveBeenCalledOnce())
    expect(uncaught.mock.calls[0]?.[0]).toMatchObject({ message: "the application's own" })
  } finally {
    for (const listener of before) process.on('uncaughtException', listener)
  }
})

test('in a primary the middleware does nothing', async () => {
  ctx = worker(sharedRedis().url, testNamespace()) // not connected yet
  const url = await app(limit({ limit: 1 }))
  setProcessRole('primary')
  try {
    for (let visits = 0; visits < 3; visits++) expect((await get(url)).body).toBe('null')
    expect(ctx.redis.now).toBeUndefined()
  } finally {
    setProcessRole('alone')
  }
})

/** Express with a `trust proxy` setting; errors as its own handler shows them in development. */
function expressApp(trust: unknown, options: Partial<RateLimitOptions<Request>> = {}): Promise<string> {
  const server = express()
  server.set('env', 'test')
  server.set('trust proxy', trust)
  server.use(createRateLimit<Request>(ctx, { limit: 2, per: '1m', ...options }))
  server.get('/', (req, res) => void res.json(req.rateLimit))
  return serve(server)
}

const forged = (address: string) => ({ headers: { 'x-forwarded-for': address } })

test('Express: a forged X-Forwarded-For changes nothing', async () => {
  const url = await expressApp(false)
  expect((await get(url, forged('1.1.1.1'))).json()).toMatchObject({ remaining: 1 })
  expect((await get(url, forged('2.2.2.2'))).json()).toMatchObject({ remaining: 0 })
  expect((await get(url, forged('3.3.3.3'))).status).toBe(429)
})

test('Express behind one proxy: only what the proxy added counts, IPv6 by /64', async () => {
  const url = await expressApp(1)
  expect((await get(url, forged('9.9.9.9, 198.51.100.1'))).json()).toMatchObject({ remaining: 1 })
  expect((await get(url, forged('8.8.8.8, ::ffff:198.51.100.1'))).json()).toMatchObject({ remaining: 0 })
  expect((await get(url, forged('7.7.7.7, 198.51.100.1'))).status).toBe(429)
  expect((await get(url, forged('2001:db8:1:2::1'))).json()).toMatchObject({ remaining: 1 })
  expect((await get(url, forged('2001:db8:1:2:ffff::9'))).json()).toMatchObject({ remaining: 0 })
  expect((await get(url, forged('2001:db8:1:3::1'))).json()).toMatchObject({ remaining: 1 })
})

test('Express that trusts every proxy is refused, unless a key function takes the responsibility', async () => {
  const refused = await get(await expressApp(true), forged('1.1.1.1'))
  expect(refused.status).toBe(500)
  expect(refused.body).toContain('every client chooses its own address')
  const url = await expressApp(true, { name: 'own', key: (req) => req.get('x-api-key') ?? 'anonymous' })
  expect((await get(url, forged('1.1.1.1'))).status).toBe(200)
})

test.each(['unknown', '1.2.3.4:5678', '', '1.2.3.4.5', '%00'])(
  'Express: a proxy that sends %j as the address: an error, never a pass',
  async (address) => {
    const reply = await get(await expressApp(1), forged(`x, ${address}`))
    if (address === '') expect(reply.status).not.toBe(429)
    else expect(reply.status).toBe(500)
  },
)

test.each([
  ['skipFailed', 500, 200],
  ['skipSuccessful', 200, 401],
] as const)(
  '%s: a response of %i gives back what it took, one of %i does not',
  async (option, free, counted) => {
    const middleware = limit({ limit: 2, per: '1h', key: () => 'k', onUnavailable: 'deny', [option]: true })
    const limiter = createRateLimiter(ctx, { limit: 2, per: '1h', onUnavailable: 'deny' })
    const url = await serve((req, res) =>
      middleware(req, res, (error) => void res.writeHead(error ? 503 : Number(req.url?.slice(1))).end()),
    )
    for (let visits = 0; visits < 4; visits++) {
      expect((await get(`${url}/${free}`)).status).toBe(free)
      await until(async () => (await limiter.peek('k')).remaining === 2, { what: 'the charge to come back' })
    }
    expect((await get(`${url}/${counted}`)).status).toBe(counted)
    expect((await limiter.peek('k')).remaining).toBe(1)
  },
)

test('a limit per request: the plan of this customer; what is no limit is an error, never a pass', async () => {
  const url = await app(
    createRateLimit(ctx, {
      limit: async (req) => Number(req.headers['x-plan'] ?? Number.NaN),
      per: '1h',
      onUnavailable: 'deny',
    }),
  )
  const visit = (plan: string) => get(url, { headers: { 'x-plan': plan } })
  expect((await visit('1')).headers['ratelimit-policy']).toBe('"default";q=1;w=3600')
  expect((await visit('1')).status).toBe(429)
  expect((await visit('5')).json()).toMatchObject({ remaining: 3, policy: { limit: 5 } })
  for (const plan of ['0', '-1', 'x', '1e15']) {
    const reply = await visit(plan)
    expect([reply.status, reply.body]).toEqual([500, expect.stringContaining('limit must be a whole number')])
  }
  const silent = await app(
    createRateLimit(ctx, { limit: () => undefined as never, per: '1h', name: 'silent' }),
  )
  expect((await get(silent)).body).toContain('limit must be a whole number')
})

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { limitHeaders, problemBody, retryAfterSeconds } from '../../src/rate-limit/headers.ts'
import type { RateLimitDecision } from '../../src/rate-limit/index.ts'
import { fcParams } from '../helpers/random.ts'
import { parseList } from './structured-fields.ts'

const decision = (parts: Partial<RateLimitDecision> = {}): RateLimitDecision => ({
  allowed: true,
  remaining: 50,
  retryAfterMs: 0,
  resetMs: 30_000,
  policy: { name: 'default', limit: 100, perMs: 60_000, algorithm: 'sliding-window' },
  source: 'redis',
  ...parts,
})
const plain = (dialect: Parameters<typeof limitHeaders>[0], of: RateLimitDecision): Record<string, string> =>
  Object.fromEntries(limitHeaders(dialect, of).map(({ name, value }) => [name, value]))

test('draft-8', () => {
  expect(plain('draft-8', decision())).toEqual({
    'RateLimit-Policy': '"default";q=100;w=60',
    RateLimit: '"default";r=50;t=30',
  })
})

test('draft-7', () => {
  expect(plain('draft-7', decision())).toEqual({
    'RateLimit-Policy': '100;w=60',
    RateLimit: 'limit=100, remaining=50, reset=30',
  })
})

test('legacy: the reset is a time', () => {
  const before = Date.now() / 1_000
  const headers = plain('legacy', decision())
  expect(headers).toEqual({
    'X-RateLimit-Limit': '100',
    'X-RateLimit-Remaining': '50',
    'X-RateLimit-Reset': expect.stringMatching(/^\d{10}$/),
  })
  expect(Number(headers['X-RateLimit-Reset'])).toBeGreaterThanOrEqual(before + 30)
  expect(Number(headers['X-RateLimit-Reset'])).toBeLessThan(before + 35)
})

const anyDecision = fc
  .record({
    allowed: fc.boolean(),
    limit: fc.integer({ min: 1, max: 1e9 }),
    perMs: fc.integer({ min: 1, max: 31 * 86_400_000 }),
    name: fc.stringMatching(/^[A-Za-z0-9._-]{1,64}$/),
    part: fc.double({ min: 0, max: 1, noNaN: true }),
    wait: fc.integer({ min: 1, max: 2 ** 31 }),
    reset: fc.integer({ min: 0, max: 2 ** 31 }),
  })
  .map(({ allowed, limit, perMs, name, part, wait, reset }) =>
    decision({
      allowed,
      remaining: Math.floor(limit * part),
      retryAfterMs: allowed ? 0 : wait,
      resetMs: reset,
      policy: { name, limit, perMs, algorithm: 'sliding-window' },
    }),
  )

test('draft-8 is structured fields with the parameters of the draft, and Retry-After is never before t', () => {
  fc.assert(
    fc.property(anyDecision, (of) => {
      const headers = plain('draft-8', of)
      const { name, limit, perMs } = of.policy
      const w = Math.ceil(perMs / 1_000)
      expect(parseList(headers['RateLimit-Policy'] as string)).toEqual([
        { value: name, params: { q: limit, w } },
      ])
      const [item] = parseList(headers.RateLimit as string)
      expect(item?.value).toBe(name)
      expect(item?.params).toEqual({ r: of.remaining, t: expect.any(Number) })
      const t = Number(item?.params.t)
      if (!of.allowed) {
        expect(retryAfterSeconds(of)).toBeGreaterThanOrEqual(t)
        expect(retryAfterSeconds(of) * 1_000).toBeGreaterThanOrEqual(of.retryAfterMs)
      }
    }),
    fcParams(),
  )
})

test('the body is problem+json of the registered type', () => {
  expect(JSON.parse(problemBody(decision({ allowed: false, retryAfterMs: 1_001 })))).toEqual({
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    title: 'Too many requests',
    status: 429,
    detail: 'The limit of 100 per 60 s is used up; try again in 2 s.',
    'violated-policies': ['default'],
  })
})

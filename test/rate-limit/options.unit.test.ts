import { expect, test } from 'vitest'
import { createRateLimit, createRateLimiter } from '../../src/rate-limit/index.ts'
import { worker } from './app.ts'

const ctx = worker('redis://127.0.0.1:1', 'options')

const mistakes = (options: unknown): string => {
  try {
    createRateLimit(ctx, options as never)
  } catch (error) {
    expect(error).toMatchObject({ code: 'ERR_AS_ONE_OPTIONS' })
    return (error as Error).message
  }
  return ''
}

test('every mistake is reported together, by name', () => {
  const message = mistakes({ limit: 0, per: '32d', name: 'a b', algorithm: 'leaky', shadow: 1, cost: 0.5 })
  for (const name of ['limit', 'per', 'name', 'algorithm', 'shadow', 'cost']) {
    expect(message).toContain(`rateLimit: ${name} must be`)
  }
  expect(mistakes({})).toBe('rateLimit: limit is required; rateLimit: per is required')
  expect(mistakes(7)).toContain('rateLimit must be an object, got 7')
})

test.each([0, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 1e15, '10', null])(
  'limit %s is refused',
  (limit) => {
    expect(mistakes({ limit, per: '1m' })).toContain('limit must be a whole number from 1 to 1000000000')
  },
)

test.each([0, -1, Number.NaN, '0s', '5 years', '32d', null])('per %s is refused', (per) => {
  expect(mistakes({ limit: 1, per })).toContain('per must be')
})

test.each([
  ['windowMs', 'per'],
  ['duration', 'per'],
  ['max', 'limit'],
  ['points', 'limit'],
  ['keyGenerator', 'key'],
  ['standardHeaders', 'headers'],
  ['handler', 'onLimit'],
  ['keyPrefix', 'name'],
  ['skipFailedRequests', 'skipFailed'],
  ['blockDuration', 'blockFor'],
  ['passOnStoreError', "onUnavailable: 'allow'"],
])("a neighbour's %s is refused with %s", (theirs, ours) => {
  expect(mistakes({ limit: 1, per: 1, [theirs]: 1 })).toBe(
    `rateLimit: ${theirs} is not an option; did you mean ${ours}?`,
  )
})

test('a limiter without HTTP has no options for HTTP', () => {
  expect(() => createRateLimiter(ctx, { limit: 1, per: 1, headers: false } as never)).toThrow(
    'rateLimiter: headers is not an option',
  )
})

test('a cost that can never fit is refused at once', () => {
  expect(mistakes({ limit: 5, per: 1, cost: 6 })).toContain('cost must be a whole number from 1 to 5, got 6')
})

test('one name, other numbers: an error that tells both; equal ones share', () => {
  createRateLimit(ctx, { name: 'api', limit: 100, per: '1m' })
  createRateLimiter(ctx, { name: 'api', limit: 100, per: 60_000 })
  for (const other of [{ limit: 99 }, { per: '2m' as const }, { algorithm: 'fixed-window' as const }]) {
    expect(() => createRateLimit(ctx, { name: 'api', limit: 100, per: '1m', ...other })).toThrow(
      "rateLimit: name 'api' is already used by a limiter with limit 100 per 60000 ms (sliding-window)",
    )
  }
  createRateLimit(worker('redis://127.0.0.1:1', 'options'), { name: 'api', limit: 99, per: '1m' })
})

test('the options object is not written to', () => {
  const options = Object.freeze({ name: 'frozen', limit: 1, per: '1s' as const })
  expect(createRateLimiter(ctx, options).policy).toEqual({
    name: 'frozen',
    limit: 1,
    perMs: 1_000,
    algorithm: 'sliding-window',
  })
})

import { describe, expect, test } from 'vitest'
import { resolveCacheOptions, resolveLoadTtl, resolveSetTtl } from '../../src/cache/options.ts'
import { slotOf } from '../../src/redis/slots.ts'

describe('options', () => {
  test('have their defaults', () => {
    expect(resolveCacheOptions(undefined)).toEqual({
      name: 'main',
      ttlMs: 300_000,
      maxStalenessMs: 1_000,
      l1: { maxEntries: 10_000, maxBytes: 67_108_864 },
      leaseMs: 2_000,
      timeoutMs: 500,
      outageConcurrency: 32,
    })
    expect(resolveCacheOptions({ l1: false, ttl: 0 })).toMatchObject({ l1: undefined, ttlMs: 0 })
  })

  test('are all judged together, and neighbours put right', () => {
    const mistakes = {
      name: 'a:b',
      ttl: -1,
      maxStaleness: 5,
      l1: { max: 5, maxBytes: 0 },
      grace: '1h',
      stdTTL: 5,
    }
    let message = ''
    try {
      resolveCacheOptions(mistakes)
    } catch (error) {
      message = (error as Error).message
      expect(error).toMatchObject({ code: 'ERR_AS_ONE_OPTIONS' })
    }
    for (const part of [
      'name must',
      'ttl must',
      'maxStaleness must',
      'l1.max',
      'maxBytes must',
      'grace',
      'did you mean ttl',
    ])
      expect(message).toContain(part)
  })

  test('of a call', () => {
    expect(resolveSetTtl({ ttl: '1m' }, 5)).toBe(60_000)
    expect(resolveSetTtl({}, 5)).toBe(5)
    expect(resolveLoadTtl({ signal: AbortSignal.timeout(1) }, 5)).toBe(5)
    for (const wrong of [{ tags: ['a'] }, { ttl: '5 parsecs' }, { ttl: Number.NaN }, null, 5])
      expect(() => resolveSetTtl(wrong as never, 5)).toThrow(/cache\.set/)
    expect(() => resolveLoadTtl({ softTimeout: 5, signal: {} } as never, 5)).toThrow(/softTimeout.*|signal/)
  })
})

test('hash slots are those of the Cluster specification', () => {
  expect(slotOf('123456789')).toBe(0x31c3)
  expect(slotOf('foo{bar}baz')).toBe(slotOf('bar'))
  expect(slotOf('foo{}{bar}')).not.toBe(slotOf('bar'))
  expect(slotOf('foo{{bar}}zap')).toBe(slotOf('{bar'))
})

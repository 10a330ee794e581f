import { describe, expect, test } from 'vitest'
import { resolveCacheOptions, resolveLoad, resolveSet, withJitter } from '../../src/cache/options.ts'
import { jsonSerializer } from '../../src/cache/values.ts'
import { slotOf } from '../../src/redis/slots.ts'

describe('options', () => {
  test('have their defaults', () => {
    expect(resolveCacheOptions(undefined)).toEqual({
      name: 'main',
      life: {
        ttlMs: 300_000,
        graceMs: 0,
        jitter: 0,
        tags: [],
        softMs: undefined,
        hardMs: undefined,
        negativeMs: undefined,
        early: false,
        signal: undefined,
      },
      maxStalenessMs: 1_000,
      l1: { maxEntries: 10_000, maxBytes: 67_108_864 },
      leaseMs: 2_000,
      timeoutMs: 500,
      maxValueBytes: 67_108_864,
      serializer: jsonSerializer,
      outage: 'load',
      outageTtlMs: 1_000,
      outageConcurrency: 32,
    })
    expect(resolveCacheOptions({ l1: false, ttl: 0, maxStaleness: '2s' })).toMatchObject({
      l1: undefined,
      life: { ttlMs: 0 },
      outageTtlMs: 2_000,
    })
  })

  test('are all judged together, and neighbours put right', () => {
    const mistakes = {
      name: 'a:b',
      ttl: -1,
      maxStaleness: 5,
      l1: { max: 5, maxBytes: 0 },
      grace: 'long',
      jitter: 1.5,
      early: 'sometimes',
      serializer: { encode: JSON.stringify },
      outage: 'hide',
      maxValueBytes: 0,
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
      'jitter must be a number from 0 to 0.99',
      "early must be a number from 0.01 to 0.99, 'random' or false",
      'serializer must have',
      'outage must',
      'maxValueBytes must',
      'did you mean ttl',
    ])
      expect(message).toContain(part)
  })

  test('of a call', () => {
    const { life } = resolveCacheOptions({ ttl: 5, grace: 7 })
    expect(resolveSet(undefined, life)).toBe(life)
    expect(resolveSet({ ttl: '1m', tags: ['a', 'b', 'a'] }, life)).toEqual({
      ttlMs: 60_000,
      graceMs: 7,
      jitter: 0,
      tags: ['a', 'b'],
    })
    const signal = AbortSignal.timeout(1)
    expect(resolveLoad({ signal, softTimeout: 0, early: 0.8 }, life)).toMatchObject({
      ttlMs: 5,
      softMs: 0,
      early: 0.8,
      signal,
    })
    for (const wrong of [
      { softTimeout: 5 },
      { ttl: '5 parsecs' },
      { ttl: Number.NaN },
      { tags: 'a' },
      { tags: ['\ud800'] },
      { tags: Array.from({ length: 65 }, String) },
      null,
      5,
    ])
      expect(() => resolveSet(wrong as never, life)).toThrow(/cache\.set/)
    expect(() => resolveLoad({ swr: 5, signal: {} } as never, life)).toThrow(
      /grace and softTimeout.*signal|signal.*grace/,
    )
  })

  test('jitter only shortens', () => {
    const ttls = Array.from({ length: 1_000 }, () => withJitter(1_000, 0.1))
    expect(Math.max(...ttls)).toBeLessThanOrEqual(1_000)
    expect(Math.min(...ttls)).toBeGreaterThanOrEqual(900)
    expect(new Set(ttls).size).toBeGreaterThan(50)
    expect(withJitter(1_000, 0)).toBe(1_000)
  })
})

test('hash slots are those of the Cluster specification', () => {
  expect(slotOf('123456789')).toBe(0x31c3)
  expect(slotOf('foo{bar}baz')).toBe(slotOf('bar'))
  expect(slotOf('foo{}{bar}')).not.toBe(slotOf('bar'))
  expect(slotOf('foo{{bar}}zap')).toBe(slotOf('{bar'))
})

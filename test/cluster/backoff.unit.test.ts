import fc from 'fast-check'
import { expect, test } from 'vitest'
import { backoffMs } from '../../src/cluster/backoff.ts'
import { seed } from '../helpers/random.ts'

test('every delay lies between the shortest and the doubled one, never past the longest', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 10_000 }),
      fc.integer({ min: 0, max: 100_000 }),
      fc.integer({ min: 0, max: 5_000 }),
      (minMs, more, failures) => {
        const maxMs = minMs + more
        const delay = backoffMs(failures, { minMs, maxMs, stableAfterMs: 0 })
        expect(delay).toBeGreaterThanOrEqual(minMs)
        expect(delay).toBeLessThanOrEqual(Math.min(maxMs, minMs * 2 ** failures))
      },
    ),
    { seed },
  )
})

test('the first failure waits the shortest time; later ones differ, so that slots do not restart in step', () => {
  const options = { minMs: 100, maxMs: 30_000, stableAfterMs: 0 }
  expect(backoffMs(0, options)).toBe(100)
  expect(new Set(Array.from({ length: 20 }, () => backoffMs(8, options))).size).toBeGreaterThan(10)
})

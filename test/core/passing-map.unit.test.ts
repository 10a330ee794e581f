import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { PassingMap } from '../../src/core/passing-map.ts'

test('holds what a Map would hold', () => {
  const step = fc.tuple(fc.constantFrom('set', 'delete'), fc.nat({ max: 1_500 }), fc.nat())
  fc.assert(
    fc.property(fc.array(step, { maxLength: 3_000 }), (steps) => {
      const map = new Map<number, number>()
      const passing = new PassingMap<number, number>()
      for (const [what, key, value] of steps) {
        if (what === 'set') {
          map.set(key, value)
          passing.set(key, value)
        } else {
          map.delete(key)
          passing.delete(key)
        }
        expect(passing.size).toBe(map.size)
        expect(passing.get(key)).toBe(map.get(key))
      }
      const sorted = (entries: Iterable<[number, number]>) => [...entries].sort(([a], [b]) => a - b)
      expect(sorted(passing.entries())).toEqual(sorted(map))
    }),
    { numRuns: 50 },
  )
})

test('forgets keys that do not come again', () => {
  const passing = new PassingMap<number, number>()
  passing.set(-1, 1)
  for (let key = 0; key < 10_000; key++) {
    passing.set(key, key)
    passing.delete(key)
    expect(passing.places).toBeLessThan(300)
  }
  expect(passing.entries()).toEqual([[-1, 1]])
})

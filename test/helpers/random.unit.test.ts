import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createRng, fcParams, fileRng, seed } from './random.ts'

const draw = (rng = createRng(42)) => [
  rng.int(0, 1e6),
  rng.float(),
  rng.string(),
  rng.shuffle([1, 2, 3, 4, 5]),
]

test('the same seed draws the same, another one something else', () => {
  expect(draw()).toEqual(draw())
  expect(draw(createRng(43))).not.toEqual(draw())
  expect(draw(fileRng())).toEqual(draw(fileRng()))
})

test('a fork has numbers of its own, whatever was drawn before it', () => {
  const used = createRng(42)
  draw(used)
  expect(draw(used.fork('a'))).toEqual(draw(createRng(42).fork('a')))
  expect(draw(used.fork('a'))).not.toEqual(draw(used.fork('b')))
})

test('what is drawn keeps its bounds', () => {
  fc.assert(
    fc.property(fc.integer(), fc.integer({ min: 0, max: 1000 }), (from, size) => {
      const rng = createRng(from)
      const int = rng.int(-size, size)
      expect(Number.isInteger(int) && -size <= int && int <= size).toBe(true)
      const items = Array.from({ length: size % 20 }, (_, at) => at)
      expect(rng.shuffle(items).sort((a, b) => a - b)).toEqual(items)
      expect(rng.bytes(size)).toHaveLength(size)
      expect(rng.string(size, 'ab')).toMatch(/^[ab]*$/)
    }),
    fcParams(),
  )
})

test('ints are spread evenly', () => {
  const rng = createRng(7)
  const counts = [0, 0, 0, 0]
  for (let drawn = 0; drawn < 40_000; drawn++) counts[rng.int(0, 3)]!++
  for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(500)
})

test('fast-check gets the seed of the file', () => {
  expect(fcParams({ numRuns: 7 })).toMatchObject({ seed, numRuns: 7 })
})

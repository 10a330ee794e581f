import fc from 'fast-check'
import { expect, test } from 'vitest'
import { byteSize, durationMs } from '../../src/core/duration.ts'
import { fcParams } from '../helpers/random.ts'

test.each([
  [0, 0],
  [250, 250],
  [1.5, 2],
  ['250ms', 250],
  ['5s', 5_000],
  ['1.5m', 90_000],
  ['2h', 7_200_000],
  ['7d', 604_800_000],
  [' 5S ', 5_000],
  ['0ms', 0],
])('%j is %d ms', (value, ms) => {
  expect(durationMs(value)).toBe(ms)
})

const noDurations: unknown[] = [
  -1,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  2 ** 53,
  '',
  '5',
  's',
  '-5s',
  '5 s',
  '1e3ms',
  '5s5s',
  '.5s',
  '5.s',
  '5w',
  '0x10ms',
  `${'9'.repeat(400)}d`,
  null,
  undefined,
  true,
  {},
  [5],
  5n,
]

test.each(noDurations)('%s is no duration', (value) => {
  expect(durationMs(value)).toBeUndefined()
})

test.each([
  [65_536, 65_536],
  ['512b', 512],
  ['64kb', 65_536],
  ['0.5KB', 512],
  ['512mb', 536_870_912],
  ['2gb', 2_147_483_648],
])('%j is %d bytes', (value, bytes) => {
  expect(byteSize(value)).toBe(bytes)
})

test.each(['64k', '64kib', '5s', '1tb', -1, null])('%s is no size', (value) => {
  expect(byteSize(value)).toBeUndefined()
})

test('whatever is accepted is a whole number of 0 or more', () => {
  const anything = fc.oneof(
    fc.anything(),
    fc.double(),
    fc.stringMatching(/^\d{0,20}(\.\d{0,5})?(ms|s|m|h|d|w)?$/),
  )
  fc.assert(
    fc.property(anything, (value) => {
      const ms = durationMs(value)
      if (ms !== undefined) expect(Number.isSafeInteger(ms) && ms >= 0).toBe(true)
    }),
    fcParams(),
  )
})

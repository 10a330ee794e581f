import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createKeys, type KeyRoom } from '../../src/core/keys.ts'
import { fcParams } from '../helpers/random.ts'

const rooms: readonly KeyRoom[] = [
  'session',
  'session-user',
  'cache',
  'cache-untracked',
  'rate-limit',
  'lock',
  'map',
  'counter',
  'bus',
]

test('the layout', () => {
  const keys = createKeys('shop')
  expect(keys.namespace).toBe('shop')
  expect(keys.prefix('session')).toBe('shop:s:')
  expect(keys.key('cache', 'product:7')).toBe('shop:c:product:7')
  expect(keys.tagged('lock', 'job', ':wait')).toBe('shop:l:{job}:wait')
})

test('no room lies inside another, nor inside another namespace', () => {
  const prefixes = ['a', 'a.b', 'ab'].flatMap((namespace) => rooms.map(createKeys(namespace).prefix))
  for (const one of prefixes)
    for (const other of prefixes) if (one !== other) expect(one.startsWith(other)).toBe(false)
})

test.each(['', 'a:b', 'a*', 'a{b}', 'a b', 'a/b', 'ä', 'a'.repeat(65), '[a]', 'a\n'])(
  'namespace %j is refused',
  (name) => {
    expect(() => createKeys(name)).toThrow(
      expect.objectContaining({ code: 'ERR_AS_ONE_OPTIONS', message: expect.stringContaining('namespace') }),
    )
  },
)

/** As Redis does it: what stands between the first `{` and the first `}` after it, if it is not empty. */
function hashTagOf(key: string): string {
  const from = key.indexOf('{')
  const to = key.indexOf('}', from + 1)
  return from >= 0 && to > from + 1 ? key.slice(from + 1, to) : key
}

test('tagged keys hash by their tag alone, and different tags differ', () => {
  const keys = createKeys('ns')
  const tricky = fc.oneof(fc.string(), fc.stringMatching(/^[{}%a7D5]*$/))
  fc.assert(
    fc.property(tricky, tricky, tricky, tricky, (tag, other, id, id2) => {
      const [one, two] = [keys.tagged('lock', tag, id), keys.tagged('lock', tag, id2)]
      expect(hashTagOf(one)).not.toBe(one)
      expect(hashTagOf(one)).toBe(hashTagOf(two))
      if (tag !== other) expect(hashTagOf(keys.tagged('lock', other, id))).not.toBe(hashTagOf(one))
      if (tag !== other || id !== id2) expect(keys.tagged('lock', other, id2)).not.toBe(one)
    }),
    fcParams(),
  )
})

import { expect, test } from 'vitest'
import { Recent } from '../../src/session/recent.ts'

test('the entries used last are kept, and never more than twice as many', () => {
  const recent = new Recent<number>(100)
  for (let i = 0; i < 1_000; i++) {
    recent.set(`key${i}`, i)
    expect(recent.get('key0'), 'asked for all the time').toBe(0)
  }
  for (let i = 920; i < 1_000; i++) expect(recent.get(`key${i}`)).toBe(i)
  const known = Array.from({ length: 1_000 }, (_, i) => i).filter((i) => recent.get(`key${i}`) === i)
  expect(known.length).toBeLessThanOrEqual(200)
})

test('a later value replaces an earlier one, wherever that was', () => {
  const recent = new Recent<number>(2)
  for (const key of ['a', 'b', 'c']) recent.set(key, 1)
  recent.set('a', 2)
  expect(recent.get('a')).toBe(2)
  expect(recent.get('nobody')).toBeUndefined()
})

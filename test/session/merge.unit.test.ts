import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { channels } from '../../src/core/channels.ts'
import {
  applyChanges,
  changesBetween,
  type MergeOption,
  mergedField,
  ruleFor,
} from '../../src/session/merge.ts'

const json = (value: unknown): string | undefined => JSON.stringify(value)

function merge(base: unknown, mine: unknown, theirs: unknown, option?: MergeOption): unknown {
  const text = mergedField('f', { base: json(base), mine: json(mine) }, json(theirs), ruleFor(option))
  return text === undefined ? undefined : JSON.parse(text)
}

describe('a field that both sides have changed', () => {
  test('objects: each side keeps what it has added, changed and deleted, at any depth', () => {
    const base = { a: 1, b: { c: 1, d: 1 }, gone: 1, alsoGone: 1 }
    const mine = { a: 2, b: { c: 1, d: 2, mine: 1 }, alsoGone: 1 }
    const theirs = { a: 1, b: { c: 2, d: 1 }, gone: 1, theirs: [1] }
    expect(merge(base, mine, theirs)).toEqual({ a: 2, b: { c: 2, d: 2, mine: 1 }, theirs: [1] })
  })

  test('the same leaf: the later save wins, or what the rule says; who has edited outweighs who has deleted', () => {
    expect(merge({ a: 1 }, { a: 2 }, { a: 3 })).toEqual({ a: 2 })
    expect(merge({ a: 1 }, { a: 2 }, { a: 3 }, 'theirs')).toEqual({ a: 3 })
    expect(merge({ a: 1 }, { a: 2 }, { a: 3 }, { 'f.a': 'theirs' })).toEqual({ a: 3 })
    expect(merge({ a: 1 }, { a: 2 }, { a: 3 }, { '*': 'theirs', 'f.a': 'mine' })).toEqual({ a: 2 })
    expect(merge({ a: 1 }, {}, { a: 3 })).toEqual({ a: 3 })
    expect(merge({ a: 1 }, { a: 2 }, {})).toEqual({ a: 2 })
    expect(merge(1, undefined, 2)).toBe(2)
    expect(merge(undefined, [1], [2])).toEqual([1])
    expect(merge([1], [1, 2], [1, 3])).toEqual([1, 2])
    expect(merge(1, { a: 1 }, [1])).toEqual({ a: 1 })
  })

  test('add: both differences count, also when both did the same', () => {
    expect(merge(5, 7, 6, 'add')).toBe(8)
    expect(merge(5, 6, 6, 'add')).toBe(7)
    expect(merge(undefined, 1, 1, 'add')).toBe(2)
    expect(merge({ n: 1 }, { n: 2 }, { n: 2 }, { 'f.n': 'add' })).toEqual({ n: 3 })
  })

  test('union: what either has added is in, what either has removed is out', () => {
    expect(merge([1, 2, 3], [1, 2, 4], [2, 3, 5], 'union')).toEqual([2, 5, 4])
    expect(merge(undefined, [{ a: 1 }], [{ a: 1 }, { b: 1 }], 'union')).toEqual([{ a: 1 }, { b: 1 }])
  })

  test('a function decides, with all three versions, and is told the path', () => {
    const seen: unknown[] = []
    const rule: MergeOption = (path, versions) => {
      seen.push(path, versions)
      return undefined
    }
    expect(merge({ a: { b: 1 } }, { a: { b: 2 } }, { a: { b: 3 } }, rule)).toEqual({ a: {} })
    expect(seen).toEqual(['f.a.b', { base: 1, mine: 2, theirs: 3 }])
  })

  test('only a true conflict is told, by its path', () => {
    const events: unknown[] = []
    const listener = (event: unknown) => void events.push(event)
    channels.session.subscribe(listener)
    merge({ a: 1, b: 1 }, { a: 2, b: 1 }, { a: 1, b: 2 })
    merge({ a: 1 }, { a: 2 }, { a: 2 })
    expect(events).toEqual([])
    merge({ a: 1 }, { a: 2 }, { a: 3 })
    channels.session.unsubscribe(listener)
    expect(events).toEqual([{ event: 'conflict', reason: 'merged', path: 'f.a' }])
  })

  test('keys that name prototypes are keys', () => {
    const evil = JSON.parse('{"__proto__":{"admin":true},"constructor":1,"a":1}') as object
    const merged = merge({}, evil, { b: 1 }) as object
    expect(Object.getPrototypeOf(merged)).toBe(Object.prototype)
    expect((merged as { admin?: unknown }).admin).toBeUndefined()
    expect(Object.keys(merged).sort()).toEqual(['__proto__', 'a', 'b', 'constructor'])
  })
})

const sessions = fc.dictionary(
  fc.constantFrom('a', 'b', 'c'),
  fc.oneof(fc.integer(), fc.dictionary(fc.constantFrom('x', 'y'), fc.integer())),
)
const fields = (data: object): Map<string, string> =>
  new Map(Object.entries(data).map(([key, value]) => [key, JSON.stringify(value)]))

test('whoever changed nothing loses nothing, and alone everybody gets what he wanted', () => {
  fc.assert(
    fc.property(sessions, sessions, (base, other) => {
      const rules = ruleFor(undefined)
      const alone = fields(base)
      applyChanges(changesBetween(fields(base), fields(other)), alone, rules)
      expect(Object.fromEntries(alone)).toEqual(Object.fromEntries(fields(other)))
      const theirs = fields(other)
      applyChanges(changesBetween(fields(base), fields(base)), theirs, rules)
      expect(theirs).toEqual(fields(other))
    }),
  )
})

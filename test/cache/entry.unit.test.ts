import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeEntry, HEADER_LENGTH, parseEntry, tokenIn } from '../../src/cache/entry.ts'
import { holderOf, newToken } from '../../src/cache/lease.ts'
import { jsonSerializer, Values } from '../../src/cache/values.ts'
import { parseSafely } from '../../src/core/json.ts'
import { fcParams } from '../helpers/random.ts'

const generation = '1763690000000000'
const values = new Values(jsonSerializer, 64 << 20)

describe('an entry', () => {
  test('gives back what was put into it', () => {
    const word = fc.string({ maxLength: 30 })
    const tags = fc.array(fc.tuple(word, word), { maxLength: 3 }).map((pairs) => pairs.flat())
    const ms = fc.integer({ min: 0, max: 9_999_999_999_999 })
    fc.assert(
      fc.property(fc.jsonValue(), tags, ms, ms, (value, given, graceMs, loadMs) => {
        const token = newToken()
        const payload = values.encode('k', value)
        const text = encodeEntry({ generation, token, graceMs, loadMs, tags: given }, payload)
        expect(tokenIn(text)).toBe(token)
        const entry = parseEntry(text)
        const tagNames = given.filter((_, at) => at % 2 === 0)
        const parts = { generation, token, leased: false, graceMs, loadMs, tags: given, tagNames, payload }
        expect(entry).toEqual(parts)
        expect(values.decode(entry?.payload as string)?.value).toEqual(parseSafely(payload))
      }),
      fcParams(),
    )
  })

  test('has its own tags, however many of the same and of others were read before', () => {
    // Few names and versions, so that the same come again, and others that end like them.
    const word = fc.constantFrom('#a', '#b', '#ä', '"', '1', '21', '121', '0'.repeat(990))
    const pair = fc.tuple(word, word)
    const list = fc.array(pair, { minLength: 1, maxLength: 3 }).map((pairs) => pairs.flat())
    fc.assert(
      fc.property(fc.array(list, { minLength: 10, maxLength: 60 }), (all) => {
        for (const tags of all) {
          const text = encodeEntry({ generation, token: newToken(), graceMs: 0, tags }, '1')
          expect(parseEntry(text)?.tags).toEqual(tags)
        }
      }),
      fcParams(),
    )
  })

  test('has a header of fixed width, whatever is in it', () => {
    const text = encodeEntry({ generation, token: newToken(), graceMs: 0 }, '')
    expect(text.indexOf('\n')).toBe(HEADER_LENGTH)
    expect(newToken('0123456789abcdef')).toHaveLength(24)
    expect(holderOf(newToken('0123456789abcdef'))).toBe('0123456789abcdef')
    expect(newToken()).not.toBe(newToken())
  })

  test('of any other form is none, or one of no generation', () => {
    const text = encodeEntry({ generation, token: newToken(), graceMs: 5, tags: ['#a', '1'] }, '{"a":1}')
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.nat(100), (junk, at) => {
        for (const broken of [junk, text.slice(0, at) + junk]) {
          const entry = parseEntry(broken)
          if (entry === undefined) continue
          expect(broken.startsWith('a1:')).toBe(true)
          expect(entry.tags.every((each) => typeof each === 'string')).toBe(true)
          expect(Number.isFinite(entry.graceMs)).toBe(true)
        }
      }),
      fcParams(),
    )
  })
})

describe('a value', () => {
  test('is frozen to the bottom, however deep that is', () => {
    const deep = `${'[{"a":'.repeat(5_000)}1${'}]'.repeat(5_000)}`
    let levels = 0
    for (
      let value = values.decode(deep)?.value;
      typeof value === 'object';
      value = Object.values(value as object)[0]
    ) {
      expect(Object.isFrozen(value)).toBe(true)
      levels += 1
    }
    expect(levels).toBe(10_000)
  })

  test('that is too large is refused before it is copied', () => {
    const small = new Values(jsonSerializer, 1_000)
    const long = 'x'.repeat(2_000)
    for (const value of [
      long,
      Buffer.alloc(2_000),
      { a: { b: [long] } },
      new Uint8Array(2_000),
      Array(2_000),
    ]) {
      let encoded = false
      const encode = (): string => {
        encoded = true
        return 'x'
      }
      const watched = new Values({ ...jsonSerializer, encode }, 1_000)
      expect(() => watched.encode('k', value)).toThrow(/'k' has \d+ bytes or more; maxValueBytes allows 1000/)
      expect(encoded).toBe(false)
    }
    expect(() => small.encode('k', 'ж'.repeat(600))).toThrow(/maxValueBytes/)
    expect(() => small.encode('k', Array(400).fill(12345))).toThrow(/maxValueBytes/)
    expect(small.encode('k', 'ж'.repeat(400))).toHaveLength(402)
  })

  test('of 600 MB costs a refusal its message, and no memory', () => {
    const huge = 'x'.repeat(512 * 1024 * 1024 - 30) // the longest text V8 makes; a rope, it takes no room
    const buffer = new Uint8Array(new SharedArrayBuffer(600 << 20)) // zeros that nobody has touched
    const before = process.memoryUsage().rss
    for (const value of [huge, { deep: [huge] }, buffer, { buffer }])
      expect(() => values.encode('k', value)).toThrow(/bytes or more; maxValueBytes allows 67108864/)
    expect(process.memoryUsage().rss - before).toBeLessThan(50 << 20)
  })

  test('that no text stands for is refused', () => {
    const cyclic: Record<string, unknown> = {}
    cyclic.self = cyclic
    for (const value of [1n, cyclic, () => {}, Number.NaN, Number.POSITIVE_INFINITY, undefined, Symbol('s')])
      expect(() => values.encode('k', value)).toThrow(
        expect.objectContaining({
          code: 'ERR_AS_ONE_CACHE',
          message: expect.stringMatching(/^the value of 'k'/),
        }),
      )
  })
})

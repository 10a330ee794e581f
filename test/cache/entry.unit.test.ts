import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeEntry, encodeEntry, encodeValue, OTHER_GENERATION } from '../../src/cache/entry.ts'
import { newToken } from '../../src/cache/lease.ts'
import { fcParams } from '../helpers/random.ts'

const generation = '1763690000000000'
const read = (entry: string): unknown => decodeEntry(entry, generation)

describe('an entry', () => {
  test('gives back any JSON, with the size it was stored in', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const json = encodeValue('k', value)
        const entry = encodeEntry(generation, json)
        expect(read(entry)).toEqual({ value: JSON.parse(json), size: entry.length })
      }),
      fcParams(),
    )
  })

  test('has a header of 50 bytes, whatever is in it', () => {
    expect(encodeEntry(generation, '').indexOf('\n')).toBe(50)
    expect(newToken()).toHaveLength(16)
    expect(newToken()).not.toBe(newToken())
  })

  test('is frozen to the bottom, however deep that is', () => {
    const deep = `${'[{"a":'.repeat(5_000)}1${'}]'.repeat(5_000)}`
    const found = read(encodeEntry(generation, deep)) as { value: unknown }
    let levels = 0
    for (let value = found.value; typeof value === 'object'; value = Object.values(value as object)[0]) {
      expect(Object.isFrozen(value)).toBe(true)
      levels += 1
    }
    expect(levels).toBe(10_000)
  })

  test('of another generation is told apart from what is no entry', () => {
    expect(read(encodeEntry('1763690000000001', '1'))).toBe(OTHER_GENERATION)
    expect(read(encodeEntry('not a generation', '1'))).toBeUndefined()
  })

  test('of any other form is none', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.nat(60), (text, at) => {
        const entry = encodeEntry(generation, '{"a":1}')
        for (const broken of [text, entry.slice(0, at) + text, text + entry]) {
          const found = read(broken)
          if (found !== undefined && found !== OTHER_GENERATION)
            expect(broken.startsWith(`a1:${generation}:`)).toBe(true)
        }
      }),
      fcParams(),
    )
  })
})

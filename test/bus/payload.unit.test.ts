import { isDeepStrictEqual } from 'node:util'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodePayload, Encoding, encodePayload } from '../../src/bus/payload.ts'
import { parseSafely } from '../../src/core/json.ts'
import { fcParams } from '../helpers/random.ts'

/** As it goes over the wire. */
function roundTrip(value: unknown): unknown {
  const { encoding, json } = encodePayload(value)
  return decodePayload(encoding, parseSafely(Buffer.from(json).toString('utf8')))
}

const tooDeep = expect.objectContaining({
  code: 'ERR_AS_ONE_PAYLOAD',
  message: expect.stringContaining('64'),
})
const refused = expect.objectContaining({ code: 'ERR_AS_ONE_PAYLOAD' })

test.each([
  null,
  true,
  0,
  -1.5,
  '',
  'text',
  'ä €',
  [],
  {},
  [[1], { a: { b: [] } }],
  { cmd: 'NODE_x' },
  { $: 'x' },
  { $: 'date', v: 1 },
])('plain data is its own JSON: %j', (value) => {
  expect(encodePayload(value)).toEqual({ encoding: Encoding.json, json: JSON.stringify(value) })
  expect(roundTrip(value)).toEqual(value)
})

const special: unknown[] = [
  undefined,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  0n,
  -(2n ** 200n),
  new Date(0),
  new Date(Number.NaN),
  new Map<unknown, unknown>([
    [{ a: 1 }, new Set([1n])],
    [undefined, Number.NaN],
  ]),
  new Set([new Date(5), undefined]),
  Buffer.from([0, 255]),
  new Uint8Array([0, 255]),
  new Uint8Array(),
  Object.assign(Array(2), { 1: 'behind a hole' }),
  { a: undefined, $: 'x' },
  { $: 'undefined', v: 5n },
  [{ $: { $: [1n] } }],
]

test.each(special)('survives: %s', (value) => {
  const copy = roundTrip(value)
  expect(copy).toEqual(Array.isArray(value) ? Array.from(value) : value)
  if (typeof value === 'object' && value !== null) {
    expect(Object.getPrototypeOf(copy)).toBe(Object.getPrototypeOf(value))
  }
})

test('lone surrogates, as values and as keys', () => {
  for (const text of ['\ud800', 'a\udc00b', '\udc00\ud800']) {
    expect(roundTrip(text)).toBe(text)
    expect(roundTrip([text, 1n])).toEqual([text, 1n])
    expect(roundTrip({ [text]: undefined })).toEqual({ [text]: undefined })
  }
})

test('errors keep name, message, stack, code and cause', () => {
  class OwnError extends TypeError {
    override name = 'OwnError'
    code = 'E_OWN'
  }
  const copy = roundTrip(
    new OwnError('outer', { cause: new RangeError('inner', { cause: 'text' }) }),
  ) as OwnError
  expect(copy).toBeInstanceOf(Error)
  expect(copy).toMatchObject({ name: 'OwnError', message: 'outer', code: 'E_OWN' })
  expect(copy.stack).toContain('payload.unit.test')
  expect(copy.cause).toMatchObject({ name: 'RangeError', message: 'inner', cause: 'text' })
  expect((roundTrip(Object.assign(new Error(), { code: 11_000 })) as OwnError).code).toBe(11_000)
  expect(roundTrip(new Error('x', { cause: null }))).toHaveProperty('cause', null)
  expect(roundTrip(new Error('x'))).not.toHaveProperty('cause')
})

test('class instances travel as data', () => {
  class Point {
    x = 1
    y = undefined
    get sum(): number {
      return 5
    }
  }
  expect(roundTrip(new Point())).toEqual({ x: 1, y: undefined })
  expect(roundTrip(new URL('http://h/a'))).toBe('http://h/a')
  expect(roundTrip({ toJSON: () => ({ when: new Date(7) }) })).toEqual({ when: new Date(7) })
  expect(roundTrip(Object.assign(Object.create(null), { a: 1 }))).toEqual({ a: 1 })
  expect(roundTrip(runInNewContext('({ a: [1] })'))).toEqual({ a: [1] })
})

const values = fc.letrec((tie) => ({
  leaf: fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.double().map((number) => (Object.is(number, -0) ? 0 : number)),
    fc.boolean(),
    fc.constant(null),
    fc.constant(undefined),
    fc.bigInt(),
    fc.date({ noInvalidDate: true }), // deep equality on Node 20 takes two invalid dates for different
    fc.uint8Array({ maxLength: 8 }),
    fc.uint8Array({ maxLength: 8 }).map((bytes) => Buffer.from(bytes)),
  ),
  key: fc
    .oneof(fc.string(), fc.constantFrom('$', 'v', 'toString', 'constructor', 'length'))
    .filter((key) => key !== '__proto__'),
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    tie('leaf'),
    fc.array(tie('value'), { maxLength: 4 }),
    fc
      .array(fc.tuple(tie('key') as fc.Arbitrary<string>, tie('value')), { maxLength: 4 })
      .map((all) => Object.fromEntries(all)),
    fc.array(tie('value'), { maxLength: 4 }).map((all) => new Set(all)),
    fc.array(fc.tuple(tie('value'), tie('value')), { maxLength: 4 }).map((all) => new Map(all)),
  ),
})).value

test('whatever is put together of these comes back as it was', () => {
  fc.assert(
    fc.property(values, (value) => {
      expect(isDeepStrictEqual(roundTrip(value), value)).toBe(true)
    }),
    fcParams({ numRuns: 500 }),
  )
})

describe('what cannot be sent', () => {
  test.each([
    () => {},
    Symbol('x'),
    { a: { b: () => {} } },
    [Symbol.iterator],
    new Float64Array(1),
    new ArrayBuffer(1),
    new DataView(new ArrayBuffer(1)),
    new Map([[1, () => {}]]),
    10n ** 10_000n,
  ])('%s', (value) => {
    expect(() => encodePayload(value)).toThrow(refused)
  })

  test('cycles, through whatever they lead', () => {
    const object: Record<string, unknown> = {}
    object.self = object
    const array: unknown[] = [undefined]
    array.push(array)
    const map = new Map()
    map.set('map', map)
    const error = new Error('x')
    error.cause = error
    const both = { a: object, b: object }
    const endless = { toJSON: () => ({ ...endless }) }
    for (const value of [object, array, map, error, both, endless])
      expect(() => encodePayload(value)).toThrow(tooDeep)
  })

  test('more than 64 levels, plain or tagged', () => {
    const nested = (levels: number, leaf: unknown): unknown => {
      let value = leaf
      for (let level = 0; level < levels; level++) value = level % 2 ? [value] : { value }
      return value
    }
    for (const leaf of [1, 1n, undefined]) {
      const deepest = nested(64, leaf)
      expect(roundTrip(deepest)).toEqual(deepest)
      expect(() => encodePayload(nested(65, leaf))).toThrow(tooDeep)
    }
  })

  test('the same object twice is no cycle', () => {
    const twin = { a: 1n }
    expect(roundTrip([twin, twin])).toEqual([twin, twin])
  })
})

describe('__proto__', () => {
  const spellings = [
    '__proto__',
    '\\u005f_proto__',
    '__\\u0070roto__',
    '__p\\u0072oto__',
    '__pro\\u0074o__',
    '__prot\\u006f__',
    '\\u005F\\u005F\\u0070\\u0072\\u006F\\u0074\\u006F__',
  ]

  test.each(spellings)('is dropped when it is spelled %s', (key) => {
    const text = `{"a":[{"${key}":{"polluted":1},"b":1}],"${key}":{"c":2}}`
    const value = parseSafely(text) as { a: object[] }
    expect(Object.keys(value)).toEqual(['a'])
    expect(Object.keys(value.a[0]!)).toEqual(['b'])
    for (const tagged of [text, `{"$":"object","v":${text}}`]) {
      // Even without parseSafely in front.
      const decoded = decodePayload(Encoding.tagged, JSON.parse(tagged)) as {
        a: object[]
        polluted?: unknown
      }
      expect(decoded).toEqual({ a: [{ b: 1 }] })
      expect(Object.getPrototypeOf(decoded.a[0])).toBe(Object.prototype)
      expect(decoded.polluted).toBeUndefined()
    }
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined()
  })

  test('stays a value, and harmless text stays what it is', () => {
    const value = ['__proto__', { a: '\\u0070' }, 'p']
    expect(roundTrip(value)).toEqual(value)
  })

  test('of a sender is dropped in either encoding', () => {
    expect(roundTrip(JSON.parse('{"__proto__":{"x":1},"a":1}'))).toEqual({ a: 1 })
    expect(roundTrip({ b: 1n, c: JSON.parse('{"__proto__":{"x":1},"a":1}') })).toEqual({ b: 1n, c: { a: 1 } })
  })

  test('a very deep foreign document costs no stack', () => {
    const deep = `${'['.repeat(200_000)}{"__proto__":1}${']'.repeat(200_000)}`
    const parsed = parseSafely(deep)
    expect(() => decodePayload(Encoding.json, parsed)).toThrow(tooDeep)
    expect(() => decodePayload(Encoding.tagged, parsed)).toThrow(tooDeep)
  })
})

test.each([
  { $: 'no such tag' },
  { $: 5 },
  { $: { toString: 1 } },
  { $: 'number', v: 5 },
  { $: 'number', v: [[1]] },
  { $: 'bigint', v: '1e5' },
  { $: 'bigint', v: '9'.repeat(20_000) },
  { $: 'bigint', v: 5 },
  { $: 'date', v: 'now' },
  { $: 'map', v: {} },
  { $: 'map', v: [5] },
  { $: 'set', v: 'abc' },
  { $: 'buffer', v: 5 },
  { $: 'bytes' },
  { $: 'error', v: 'x' },
  { $: 'error', v: { message: { toString: 1 } } },
  { $: 'object', v: null },
])('a forged tag is refused: %j', (value) => {
  expect(() => decodePayload(Encoding.tagged, value)).toThrow(refused)
})

test.each([2, -1, '0', null, undefined, [0], {}])('a forged encoding is refused: %j', (encoding) => {
  expect(() => decodePayload(encoding, 1)).toThrow(refused)
})

test('whatever JSON comes as tagged, the answer is a value or a typed error', () => {
  const forged = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 3 },
      fc.oneof(fc.string(), fc.integer(), fc.constant(null), fc.constant([]), fc.constant({})),
      fc.record({
        $: fc.oneof(
          fc.constantFrom(
            'undefined',
            'number',
            'bigint',
            'date',
            'map',
            'set',
            'buffer',
            'bytes',
            'error',
            'object',
          ),
          tie('value'),
        ),
        v: fc.oneof(tie('value'), fc.array(fc.array(tie('value'), { maxLength: 3 }), { maxLength: 3 })),
      }),
    ),
  })).value
  fc.assert(
    fc.property(forged, (value) => {
      try {
        decodePayload(Encoding.tagged, value)
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_AS_ONE_PAYLOAD' })
      }
    }),
    fcParams({ numRuns: 500 }),
  )
})

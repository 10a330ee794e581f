import { expect, test } from 'vitest'
import type { SharedStateError } from '../../src/core/errors.ts'
import {
  fieldsOf,
  isChanged,
  isCookieChanged,
  keepRecord,
  parseField,
  recordNew,
  recordOf,
} from '../../src/session/fields.ts'
import { changesBetween } from '../../src/session/merge.ts'

const codeOf = (run: () => unknown): unknown => {
  try {
    run()
  } catch (error) {
    return (error as SharedStateError).code
  }
  return undefined
}

test('one field for each key that JSON keeps; the cookie and reserved names are none', () => {
  const session = {
    a: 1,
    b: { c: [null] },
    u: undefined,
    f: () => {},
    cookie: {},
    id: 'x',
    req: {},
    save: 'nope',
    toString: 1,
  }
  expect([...fieldsOf(session)]).toEqual([
    ['a', '1'],
    ['b', '{"c":[null]}'],
  ])
})

test('cycles and BigInts are refused by name', () => {
  const cycle: Record<string, unknown> = {}
  cycle.self = cycle
  expect(() => fieldsOf({ fine: 1, cycle })).toThrow(/session field 'cycle' cannot be stored as JSON/)
  expect(codeOf(() => fieldsOf({ big: 1n }))).toBe('ERR_AS_ONE_SESSION')
})

test('changes are what differs, was added or was removed', () => {
  const base = fieldsOf({ same: [1], changed: { a: 1 }, removed: 1, emptied: 1 })
  const now = fieldsOf({ same: [1], changed: { a: 2 }, added: 'x', emptied: undefined })
  expect([...changesBetween(base, now)]).toEqual([
    ['changed', { base: '{"a":1}', mine: '{"a":2}' }],
    ['added', { base: undefined, mine: '"x"' }],
    ['removed', { base: '1', mine: undefined }],
    ['emptied', { base: '1', mine: undefined }],
  ])
  expect(isChanged(base, now)).toBe(true)
  expect(isChanged(base, fieldsOf({ emptied: 1, removed: 1, changed: { a: 1 }, same: [1] }))).toBe(false)
  expect(isChanged(fieldsOf({ a: 1 }), fieldsOf({ b: 1 }))).toBe(true)
})

test('stored prototypes are dropped, at any depth and however they are spelled', () => {
  const evil =
    '{"a":{"__proto__":{"admin":true},"b":1},"constructor":{"prototype":{"admin":true}},"\\u005f_proto__":{"x":1}}'
  const parsed = parseField('evil', evil) as Record<string, Record<string, unknown>>
  expect(parsed).toEqual({ a: { b: 1 } })
  expect(Object.getPrototypeOf(parsed.a)).toBe(Object.prototype)
  expect(Object.assign({}, parsed, parsed.a)).not.toHaveProperty('admin')
  expect(parseField('f1', '{"constructor":"Ferrari"}')).toEqual({ constructor: 'Ferrari' })
})

test('a corrupted field is a typed error that names it', () => {
  for (const json of ['', '{', 'undefined', '{"a":1}x']) {
    expect(codeOf(() => parseField('cart', json))).toBe('ERR_AS_ONE_SESSION')
    expect(() => parseField('cart', json)).toThrow(/field 'cart' is no JSON/)
  }
})

test('a record is seen by nobody and goes with no copy', () => {
  const session: Record<string, unknown> = { a: 1 }
  const record = recordNew(session, 'sid')
  expect(recordOf(session)).toBe(record)
  expect([Reflect.ownKeys(session), JSON.stringify(session)]).toEqual([['a'], '{"a":1}'])
  expect(recordOf({ ...session })).toBeUndefined()
  expect(recordOf(structuredClone(session))).toBeUndefined()
  const other = recordNew({}, 'other')
  keepRecord(session, other)
  expect(recordOf(session)).toBe(other)
  expect(recordOf(Object.freeze({}))).toBeUndefined()
})

test('a cookie is changed by what the application does to it, not by the clock', () => {
  const cookie = { originalMaxAge: 60_000, secure: false, path: '/' }
  expect(isCookieChanged(cookie, { ...cookie })).toBe(false)
  expect(isCookieChanged(cookie, { ...cookie, originalMaxAge: 59_999, domain: undefined })).toBe(false)
  expect(isCookieChanged({ originalMaxAge: null }, { originalMaxAge: undefined })).toBe(false)
  expect(isCookieChanged(cookie, { ...cookie, originalMaxAge: 3_600_000 })).toBe(true)
  expect(isCookieChanged(cookie, { ...cookie, originalMaxAge: null })).toBe(true)
  expect(isCookieChanged(cookie, { ...cookie, sameSite: 'lax' })).toBe(true)
  expect(isCookieChanged(undefined, cookie)).toBe(true)
})

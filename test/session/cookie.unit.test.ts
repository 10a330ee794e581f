import { createHmac } from 'node:crypto'
import { expect, test } from 'vitest'
import {
  type CookieRequest,
  isUnderPath,
  readSessionId,
  secretsOf,
  signSessionId,
} from '../../src/session/cookie.ts'

const secret = 'keyboard cat'
/** Made by cookie-signature for express-session. */
const apple = 's:apple.D8Y+pkTAmeR0PobOhY4G97PRW+j7bUnP/5m6/On1MCU'

const requestWith = (cookie: string | undefined, extra: object = {}): CookieRequest =>
  ({ headers: { cookie }, ...extra }) as CookieRequest
const read = (cookie: string | undefined, secrets: string[] = [secret]): string | undefined =>
  readSessionId(requestWith(cookie), 'sid', secretsOf(secrets))?.sid

test("the format is express-session's", () => {
  expect(signSessionId('apple', secret)).toBe(apple)
  expect(read(`sid=${encodeURIComponent(apple)}`)).toBe('apple')
  expect(read(`sid=${apple}`)).toBe('apple')
  expect(read(`a=b; sid="${apple}" ; c=d`)).toBe('apple')
  expect(read(`sid=${apple}`, ['newer', secret])).toBe('apple')
})

test('what is not signed by us is no session', () => {
  const forged = `s:apple.${createHmac('sha256', 'guess').update('apple').digest('base64').slice(0, 43)}`
  const bad = [
    undefined,
    '',
    'sid',
    'sid=',
    'sid=apple',
    'sid=s:apple',
    'sid=s:apple.',
    'sid=s:.',
    'sid=s:',
    `sid=${apple.slice(2)}`,
    `sid=${forged}`,
    `sid=${apple.replace('apple', 'bpple')}`,
    `sid=${apple.slice(0, -1)}`,
    `sid=${apple}x`,
    `sid=${apple}=`,
    `sid=${apple.slice(0, -1)}é`,
    `sid=${apple.replace('.', '%')}`,
    'sid=%E0%A4%A',
    `sidx=${apple}`,
    `xsid=${apple}`,
    `SID=${apple}`,
    `other=sid=${apple}`,
    `sid=j:${JSON.stringify({ apple })}`,
    `sid=s:${'a'.repeat(5_000)}.${apple.slice(-43)}`,
    `${'sid'.repeat(5_000)}`,
    '__proto__=1; sid=__proto__',
    ';;;=;=;sid==;',
  ]
  for (const header of bad) expect(read(header), header).toBeUndefined()
})

test('a cookie is remembered as it came, for the secrets that signed it, and only when they did', () => {
  const secrets = secretsOf([secret])
  const forged = apple.replace('D8', 'D9')
  const ask = (value: string) => readSessionId(requestWith(`sid=${value}; other=1`), 'sid', secrets)?.sid
  for (let i = 0; i < 3; i++) {
    expect([ask(apple), ask(encodeURIComponent(apple)), ask(forged)]).toEqual(['apple', 'apple', undefined])
  }
  expect(secrets.verified.get(apple)).toEqual({ sid: 'apple', isOld: false })
  const newer = secretsOf(['newer', secret])
  expect(readSessionId(requestWith(`sid=${apple}`), 'sid', newer)).toEqual({ sid: 'apple', isOld: true })
  expect(secrets.verified.get(forged)).toBeUndefined()
  expect(readSessionId(requestWith(`sid=${apple}`), 'sid', secretsOf(['another']))).toBeUndefined()
  const long = signSessionId('a'.repeat(1_000), secret)
  expect([ask(long)?.length, secrets.verified.get(long)]).toEqual([1_000, undefined])
})

test('signatures of an empty id are none', () => {
  expect(read(`sid=${signSessionId('', secret)}`)).toBeUndefined()
})

test('a forged cookie in front does not hide the real one; a flood of them is not tried to the end', () => {
  const forged = apple.replace('D8', 'D9')
  expect(read(`sid=${forged}; sid=${apple}`)).toBe('apple')
  expect(read(`sid=unsigned; sid=${apple}; sid=${forged}`)).toBe('apple')
  expect(read(`${`sid=${forged}; `.repeat(200)}sid=${apple}`)).toBeUndefined()
})

test("cookie-parser's findings count like express-session counts them", () => {
  const found = (extra: object) => readSessionId(requestWith('a=b', extra), 'sid', secretsOf([secret]))?.sid
  expect(found({ signedCookies: { sid: 'apple' } })).toBe('apple')
  expect(found({ signedCookies: { sid: false } })).toBeUndefined()
  expect(found({ cookies: { sid: apple } })).toBe('apple')
  expect(found({ cookies: { sid: 'apple' } })).toBeUndefined()
  expect(found({ cookies: { sid: { object: true } } })).toBeUndefined()
})

test('paths match as RFC 6265 says', () => {
  const under = (url: string, path: string, originalUrl?: string) =>
    isUnderPath(requestWith('', { url, originalUrl }), path)
  expect(under('/anything', '/')).toBe(true)
  expect(under('', '/')).toBe(true)
  expect(under('/foo/bar', '/foo/bar')).toBe(true)
  expect(under('/foo/bar/baz?x', '/foo/bar')).toBe(true)
  expect(under('/foo/bar?x=/', '/foo/bar')).toBe(true)
  expect(under('/foo/bar', '/foo/')).toBe(true)
  expect(under('/foo/barbaz', '/foo/bar')).toBe(false)
  expect(under('/foo', '/foo/')).toBe(false)
  expect(under('/?/foo', '/foo')).toBe(false)
  expect(under('/bar', '/foo/bar', '/foo/bar')).toBe(true)
  expect(under('/foo/bar', '/foo/bar', '/x/foo/bar')).toBe(false)
  expect(under('http://example.com/foo', '/foo')).toBe(true)
  expect(under('http://foo/bar', '/foo')).toBe(false)
  expect(under('*', '/foo')).toBe(false)
})

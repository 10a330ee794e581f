import { expect, test } from 'vitest'
import type { SharedStateError } from '../../src/core/errors.ts'
import { resolveSessionOptions } from '../../src/session/options.ts'

const secret = 'keyboard cat'
const resolve = (options: unknown) => resolveSessionOptions(options)

function mistakes(options: unknown): string {
  try {
    resolve(options)
  } catch (error) {
    expect((error as SharedStateError).code).toBe('ERR_AS_ONE_OPTIONS')
    return (error as Error).message
  }
  throw new Error('no mistake found')
}

test('defaults', () => {
  const { secretsFor, cookieFor, ...rest } = resolve({ secret })
  expect(rest).toEqual({
    name: 'sid',
    format: 'hash',
    prefix: 'sess:',
    ttlMs: 86_400_000,
    touchEveryMs: 60_000,
    timeoutMs: 500,
    absoluteTtlMs: 0,
    migrate: false,
    rules: expect.any(Function),
    ring: new Map(),
    maxBytes: 65_536,
    onUnavailable: 'error',
    commit: 'before-headers',
    resave: false,
    saveUninitialized: false,
    rolling: false,
    unset: 'keep',
    genid: undefined,
    proxy: undefined,
    readsAhead: true,
  })
  expect(cookieFor({} as never)).toEqual({})
})

test('all mistakes are told together, by name', () => {
  const message = mistakes({
    secret: '',
    name: 'a b',
    cookie: {
      path: 'x',
      secure: 'yes',
      sameSite: 'no',
      maxAge: 'long',
      expires: 1,
      priority: 'urgent',
      name: 'x',
    },
    ttl: 0,
    touchEvery: -1,
    timeout: 'soon',
    commit: 'never',
    resave: 1,
    rolling: 'yes',
    unset: 'bogus',
    genid: 'x',
    store: {},
    key: 'x',
    sharedMistake: 1,
  })
  for (const part of [
    'secret must be a non-empty string',
    'name must be a string that can be a cookie name',
    'cookie.path must be a string that starts with',
    "cookie.secure must be one of true, false, 'auto', got 'yes'",
    'cookie.sameSite must be one of',
    'cookie.maxAge must be a duration',
    'cookie.expires must be a Date or null',
    'cookie.priority must be one of',
    'cookie.name is not an option; did you mean name, beside cookie?',
    'ttl must be a duration',
    'touchEvery must be a duration',
    'timeout must be a duration',
    'commit must be one of',
    'resave must be true or false',
    'rolling must be true or false',
    'unset must be one of',
    'genid must be a function',
    'store is not an option; did you mean REDIS_URL',
    'key is not an option; did you mean name?',
    'sharedMistake is not an option',
  ]) {
    expect(message).toContain(part)
  }
})

test('a secret there must be', () => {
  for (const options of [undefined, {}, { secret: undefined }])
    expect(mistakes(options)).toContain('secret is required')
  expect(mistakes({ secret: [] })).toContain('secret option array must hold at least one')
  for (const bad of [1, null, {}, ['a', ''], [undefined], new Uint8Array()]) {
    expect(mistakes({ secret: bad })).toContain('secret must be a non-empty string')
  }
  for (const good of ['a', ['a', 'b'], Buffer.from('a'), [Buffer.from('a'), 'b']]) {
    expect(resolve({ secret: good }).secretsFor({} as never).keys).toHaveLength([good].flat().length)
  }
})

test('a secret function is asked at each request, and must answer', () => {
  const answers = ['a', ['b', 'c'], undefined, '', []]
  const { secretsFor } = resolve({ secret: () => answers.shift() })
  expect(secretsFor({} as never).keys).toEqual(['a'])
  expect(secretsFor({} as never).keys).toEqual(['b', 'c'])
  for (let i = 0; i < 3; i++) expect(() => secretsFor({} as never)).toThrow(/secret is required/)
})

test('what a secret function gave before is remembered while it gives the same text', () => {
  const bytes = Buffer.from('a')
  const answers = ['a', 'a', ['a', 'b'], ['a', 'b'], 'a', bytes, bytes]
  const { secretsFor } = resolve({ secret: () => answers.shift() })
  const made = Array.from({ length: 7 }, () => secretsFor({} as never))
  expect(made.map((each, index) => each === made[index - 1])).toEqual([
    false,
    true,
    false,
    true,
    false,
    false,
    false,
  ])
})

test('the name follows the cookie, and prefixes are held to their rules', () => {
  const name = (options: object) => resolve({ secret, ...options }).name
  expect(name({ cookie: { secure: true } })).toBe('__Host-sid')
  expect(name({ cookie: { secure: 'auto' } })).toBe('sid')
  expect(name({ cookie: () => ({ secure: true }) })).toBe('sid')
  expect(name({ name: 'own', cookie: { secure: true, path: '/a', domain: 'b.c' } })).toBe('own')
  expect(mistakes({ secret, cookie: { secure: true, path: '/a', domain: 'b.c' } })).toMatch(
    /__Host-sid' needs cookie.path.*__Host-sid' needs no cookie.domain/,
  )
  expect(mistakes({ secret, name: '__Secure-sid' })).toContain("'__Secure-sid' needs cookie.secure: true")
})

test('format blob: the names connect-redis and express-session use', () => {
  const { name, prefix } = resolve({ secret, format: 'blob', cookie: { secure: true } })
  expect([name, prefix]).toEqual(['connect.sid', 'sess:'])
  expect(resolve({ secret, format: 'blob', prefix: 'app:', name: 'own' })).toMatchObject({
    name: 'own',
    prefix: 'app:',
  })
  expect(mistakes({ secret, format: 'blob', prefix: '' })).toContain('prefix must be a string')
  expect(mistakes({ secret, format: 'json' })).toContain("format must be one of 'hash', 'blob', got 'json'")
  expect(mistakes({ secret, prefix: 'app:' })).toContain(
    "prefix is for format 'blob' and for migrate; did you mean the namespace option of createShared?",
  )
})

test("the caller's object is left alone, durations are understood in the cookie too", () => {
  const options = Object.freeze({ secret, cookie: Object.freeze({ maxAge: '7d', httpOnly: false }) })
  expect(resolve(options).cookieFor({} as never)).toEqual({ maxAge: 604_800_000, httpOnly: false })
  expect(resolve({ secret, cookie: { maxAge: null } }).cookieFor({} as never)).toEqual({ maxAge: null })
  const { cookieFor } = resolve({
    secret,
    cookie: (req: { maxAge: unknown }) => ({ maxAge: req.maxAge, path: '/a' }),
  })
  expect(cookieFor({ maxAge: '5s' } as never)).toEqual({ maxAge: 5_000, path: '/a' })
  expect(() => cookieFor({ maxAge: 'soon' } as never)).toThrow(/maxAge 'soon'/)
})

test('contradictions', () => {
  expect(mistakes({ secret, cookie: { maxAge: 1, expires: new Date() } })).toContain(
    'cannot stand beside maxAge',
  )
  expect(mistakes({ secret, cookie: { domain: 'a b;c' } })).toContain('domain')
  expect(mistakes({ secret, cookie: 'x' })).toContain('cookie must be an object')
})

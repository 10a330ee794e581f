import { createSecretKey, type KeyObject } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { type ByteSize, type Duration, durationMs } from '../core/duration.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { type Neighbours, OptionReader, show } from '../core/options.ts'
import { Cookie, type CookieRequest, type SecretKey, type Secrets, secretsOf } from './cookie.ts'
import { MERGE_RULES, type MergeOption, type RuleFor, ruleFor } from './merge.ts'
import { type EncryptionKey, readEncryptionKeys } from './seal.ts'

/** Text or bytes that sign the session cookie; 32 random bytes are enough. */
export type SessionSecret = string | Uint8Array

/** express-session's cookie options. */
export interface SessionCookieOptions {
  /** Sessions are only made and loaded under this path. @default '/' */
  path?: string
  /** @default none: the host alone, without its subdomains */
  domain?: string
  /** Hidden from the page's scripts. @default true */
  httpOnly?: boolean
  /** Only over TLS; `'auto'`: as the request came. @default none */
  secure?: boolean | 'auto'
  /** `'auto'`: `'none'` over TLS, `'lax'` otherwise. @default none, which browsers take as `'lax'` */
  sameSite?: boolean | 'lax' | 'strict' | 'none' | 'auto'
  /** How long cookie and session live after the last change; null: until the browser closes, and `ttl` in Redis. @default null */
  maxAge?: Duration | null
  /** A fixed end instead of `maxAge`. @default none */
  expires?: Date | null
  /** @default false */
  partitioned?: boolean
  /** @default none */
  priority?: 'low' | 'medium' | 'high'
}

/** What the store takes, with and without our middleware. */
export interface SessionStoreOptions {
  /**
   * How sessions lie in Redis. `'hash'`: a field for each key, under hashed ids. `'blob'`: as connect-redis stores
   * them, to share sessions with processes that still run express-session with connect-redis.
   * @default 'hash'
   */
  format?: 'hash' | 'blob'
  /** connect-redis' `prefix`, which the plain session id follows: for format 'blob' and for `migrate`. @default 'sess:' */
  prefix?: string
  /** Format 'hash': sessions still stored as format 'blob' are read and moved over. @default false */
  migrate?: boolean
  /** How long Redis keeps an idle session whose cookie has no expiry of its own. @default '1d' */
  ttl?: Duration
  /** How long a session may live at most, however much it is used; format 'hash'. @default no end */
  absoluteTtl?: Duration
  /** A session that is only read has its expiry renewed this often, and at least every tenth of its life. @default '1m' */
  touchEvery?: Duration
  /** How long a request waits for Redis before it fails with a 503. @default '500ms' */
  timeout?: Duration
  /** What a value becomes that two requests have changed at the same time. @default 'mine' */
  merge?: MergeOption
  /** Encrypts the stored fields (AES-256-GCM); of several keys the first encrypts, all decrypt; format 'hash'. @default none */
  encrypt?: EncryptionKey | readonly EncryptionKey[]
  /** A session that is larger is not saved, and the request fails. @default '64kb' */
  maxBytes?: ByteSize
}

export interface SessionOptions extends SessionStoreOptions {
  /** Signs the cookie. Of several the first signs and all verify; a function is asked at each request, for secrets that rotate. */
  secret:
    | SessionSecret
    | readonly SessionSecret[]
    | ((req: IncomingMessage) => SessionSecret | readonly SessionSecret[] | undefined)
  /** Name of the cookie. @default '__Host-sid' with `cookie.secure: true`, else 'sid'; 'connect.sid' with format 'blob' */
  name?: string
  /** The cookie, or a function that makes it for a request. @default { path: '/', httpOnly: true } */
  cookie?: SessionCookieOptions | ((req: IncomingMessage) => SessionCookieOptions)
  /**
   * What a request gets when Redis is away: `'error'`, a 503; `'anonymous'`, an empty session that is not stored and
   * gets no cookie. A change to a session that was loaded is a 503 either way.
   * @default 'error'
   */
  onUnavailable?: 'error' | 'anonymous'
  /**
   * `'before-headers'`: no byte of the response leaves before its session is saved, a failed save is a 503.
   * `'after'`: as express-session: the header leaves first, the end waits, a failed save goes to `next(error)`.
   * @default 'before-headers'
   */
  commit?: 'before-headers' | 'after'
  /** Writes sessions back that nobody changed. @default false */
  resave?: boolean
  /** Stores sessions that nobody put anything into. @default false */
  saveUninitialized?: boolean
  /** Sends the cookie with every response, so that its expiry starts anew. @default false */
  rolling?: boolean
  /** What `req.session = null` or `delete req.session` does to the stored session. @default 'keep' */
  unset?: 'keep' | 'destroy'
  /** Makes the id of a new session; it must be unguessable. @default 24 random bytes */
  genid?: (req: IncomingMessage) => string
  /** Whether the connection is TLS: true believes X-Forwarded-Proto, false only the socket. @default as Express' `trust proxy` says */
  proxy?: boolean
}

export interface ResolvedStoreOptions {
  readonly format: 'hash' | 'blob'
  readonly prefix: string
  readonly migrate: boolean
  readonly ttlMs: number
  /** 0: none. */
  readonly absoluteTtlMs: number
  readonly touchEveryMs: number
  readonly timeoutMs: number
  readonly rules: RuleFor
  readonly ring: ReadonlyMap<string, KeyObject>
  readonly maxBytes: number
}

export interface ResolvedSessionOptions extends ResolvedStoreOptions {
  readonly name: string
  /** @throws SharedStateError `ERR_AS_ONE_SESSION` when the secret function gives none */
  readonly secretsFor: (req: CookieRequest) => Secrets
  readonly cookieFor: (req: CookieRequest) => ResolvedCookieOptions
  readonly onUnavailable: 'error' | 'anonymous'
  readonly commit: 'before-headers' | 'after'
  readonly resave: boolean
  readonly saveUninitialized: boolean
  readonly rolling: boolean
  readonly unset: 'keep' | 'destroy'
  readonly genid: ((req: CookieRequest) => string) | undefined
  readonly proxy: boolean | undefined
  /** Whether the session of a request can be known before it is here: not where a function is asked about the request, nor where reading moves it. */
  readonly readsAhead: boolean
}

export type ResolvedCookieOptions = Readonly<
  Omit<SessionCookieOptions, 'maxAge'> & { maxAge?: number | null }
>

const NEIGHBOURS: Neighbours = {
  key: 'name',
  cookieName: 'name',
  store: 'REDIS_URL or the redis option of createShared: sessions are always in Redis',
  client: 'REDIS_URL or the redis option of createShared',
  url: 'REDIS_URL or the redis option of createShared',
  secrets: 'secret',
  keys: 'secret',
  password: 'secret',
  maxAge: 'cookie.maxAge',
  cookieOptions: 'cookie',
  idleTimeout: 'ttl',
  disableTouch: 'touchEvery',
  disableTTL: 'ttl',
  absoluteTimeout: 'absoluteTtl',
  idleTimeoutMillis: 'ttl',
  encryption: 'encrypt',
  crypto: 'encrypt',
  maxSize: 'maxBytes',
}
const COOKIE_NEIGHBOURS: Neighbours = { name: 'name, beside cookie', httponly: 'httpOnly', ttl: 'maxAge' }

/** As far as a JavaScript Date goes; Redis counts further. */
const LONGEST_MS = 8.64e15

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake */
export function resolveSessionOptions(options: unknown): ResolvedSessionOptions {
  const reader = new OptionReader('sharedSession', options, NEIGHBOURS)
  const secretsFor = readSecret(reader)
  const given = reader.raw('cookie')
  const cookie =
    typeof given === 'function' ? undefined : readCookie(reader.nested('cookie', COOKIE_NEIGHBOURS))
  const stored = readStoreOptions(reader)
  const resolved: ResolvedSessionOptions = {
    ...stored,
    name: readName(reader, cookie, stored),
    secretsFor,
    cookieFor: cookie ? () => cookie : (req) => cookieMadeBy(given as CookieFunction, req),
    onUnavailable: reader.oneOf('onUnavailable', 'error', ['error', 'anonymous'] as const),
    commit: reader.oneOf('commit', 'before-headers', ['before-headers', 'after'] as const),
    resave: reader.boolean('resave', false),
    saveUninitialized: reader.boolean('saveUninitialized', false),
    rolling: reader.boolean('rolling', false),
    unset: reader.oneOf('unset', 'keep', ['keep', 'destroy'] as const),
    genid: reader.fn('genid'),
    proxy: reader.boolean('proxy', undefined),
    readsAhead: cookie !== undefined && typeof reader.raw('secret') !== 'function' && !stored.migrate,
  }
  reader.done()
  return Object.freeze(resolved)
}

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake */
export function resolveStoreOptions(options: unknown): ResolvedStoreOptions {
  const reader = new OptionReader('sharedSessionStore', options, NEIGHBOURS)
  const resolved = readStoreOptions(reader)
  reader.done()
  return Object.freeze(resolved)
}

function readStoreOptions(reader: OptionReader): ResolvedStoreOptions {
  const format = reader.oneOf('format', 'hash', ['hash', 'blob'] as const)
  const migrate = reader.boolean('migrate', false)
  const prefix = reader.string('prefix', 'sess:')
  if (format === 'hash' && !migrate && reader.raw('prefix') !== undefined) {
    reader.mistake(
      'prefix',
      "is for format 'blob' and for migrate; did you mean the namespace option of createShared?",
    )
  }
  if (format === 'blob') {
    for (const name of ['absoluteTtl', 'encrypt', 'migrate']) {
      if (reader.raw(name) !== undefined) reader.mistake(name, "is for format 'hash'")
    }
  }
  return {
    format,
    prefix,
    migrate,
    ttlMs: Math.min(LONGEST_MS, Math.ceil(reader.duration('ttl', 86_400_000, 1))),
    absoluteTtlMs: reader.duration('absoluteTtl', undefined, 1) ?? 0,
    touchEveryMs: reader.duration('touchEvery', 60_000),
    timeoutMs: reader.duration('timeout', 500, 1),
    rules: readMerge(reader),
    ring: readEncryptionKeys(reader),
    maxBytes: reader.size('maxBytes', 65_536),
  }
}

function readMerge(reader: OptionReader): RuleFor {
  const given = reader.raw('merge')
  const isRule = (rule: unknown): boolean =>
    typeof rule === 'function' || (MERGE_RULES as readonly unknown[]).includes(rule)
  const rules: [string, unknown][] =
    typeof given === 'object' && given !== null ? Object.entries(given) : [['', given ?? 'mine']]
  for (const [path, rule] of rules) {
    if (isRule(rule)) continue
    const where = path === '' ? '' : ` for ${show(path)}`
    reader.mistake(
      'merge',
      `must be a function or one of ${MERGE_RULES.map(show).join(', ')}${where}, got ${show(rule)}`,
    )
  }
  return ruleFor(given as MergeOption | undefined)
}

function readSecret(reader: OptionReader): ResolvedSessionOptions['secretsFor'] {
  const given = reader.raw('secret')
  if (typeof given === 'function') {
    let last = secretsOf([])
    return (req) => {
      const made = secretsMadeBy(given as SecretFunction, req)
      if (!isSameText(made, last.keys)) last = secretsOf(made)
      return last
    }
  }
  if (Array.isArray(given) && given.length === 0) {
    reader.mistake('secret', 'option array must hold at least one secret')
  } else if (![given].flat().every(isSecret)) {
    const form = 'must be a non-empty string or bytes, several of them, or a function that gives them'
    reader.mistake('secret', given === undefined ? `is required and ${form}` : `${form}, got ${show(given)}`)
  } else {
    const keys = [given as SessionSecret | SessionSecret[]]
      .flat()
      .map((secret) => createSecretKey(Buffer.from(secret)))
    const secrets = secretsOf(keys)
    return () => secrets
  }
  return () => secretsOf([])
}

/** Text alone, because bytes can be changed in place. */
function isSameText(made: readonly SecretKey[], last: readonly SecretKey[]): boolean {
  return (
    made.length === last.length && made.every((key, index) => typeof key === 'string' && key === last[index])
  )
}

type SecretFunction = (req: CookieRequest) => unknown
type CookieFunction = (req: CookieRequest) => unknown

function secretsMadeBy(make: SecretFunction, req: CookieRequest): readonly SecretKey[] {
  const secrets = [make(req)].flat()
  if (secrets.length > 0 && secrets.every(isSecret)) return secrets
  throw new SharedStateError(
    'ERR_AS_ONE_SESSION',
    'sharedSession: a secret is required, and the secret function gave none',
  )
}

function isSecret(value: unknown): value is SessionSecret {
  return (typeof value === 'string' || value instanceof Uint8Array) && value.length > 0
}

function readName(
  reader: OptionReader,
  cookie: ResolvedCookieOptions | undefined,
  { format, migrate }: ResolvedStoreOptions,
): string {
  // The characters of an RFC 6265 cookie name.
  const given = reader.string(
    'name',
    undefined,
    /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/,
    ' that can be a cookie name',
  )
  const usual = cookie?.secure === true ? '__Host-sid' : 'sid'
  const name = given ?? (format === 'blob' || migrate ? 'connect.sid' : usual)
  if (!cookie) return name
  const refuse = (what: string): void =>
    reader.mistake('name', `'${name}' needs ${what}, or browsers refuse the cookie`)
  if (/^__(Host|Secure)-/.test(name) && cookie.secure !== true) refuse('cookie.secure: true')
  if (name.startsWith('__Host-')) {
    if ((cookie.path ?? '/') !== '/') refuse("cookie.path '/'; choose another name for another path")
    if (cookie.domain !== undefined) refuse('no cookie.domain; choose another name for a domain')
  }
  return name
}

function readCookie(reader: OptionReader): ResolvedCookieOptions {
  const cookie: Record<string, unknown> = {
    path: reader.string('path', undefined, /^\//, " that starts with '/'"),
    domain: reader.string('domain', undefined),
    httpOnly: reader.boolean('httpOnly', undefined),
    secure: eitherOf(reader, 'secure', [true, false, 'auto']),
    sameSite: eitherOf(reader, 'sameSite', [true, false, 'lax', 'strict', 'none', 'auto']),
    maxAge: reader.raw('maxAge') === null ? null : reader.duration('maxAge', undefined),
    expires: reader.raw('expires'),
    partitioned: reader.boolean('partitioned', undefined),
    priority: reader.oneOf('priority', undefined, ['low', 'medium', 'high'] as const),
  }
  const { expires } = cookie
  if (expires !== undefined && expires !== null && !(expires instanceof Date)) {
    reader.mistake('expires', `must be a Date or null, got ${show(expires)}`)
  }
  if (cookie.maxAge != null && expires != null)
    reader.mistake('expires', 'cannot stand beside maxAge: choose one')
  reader.close()
  // express-session's Cookie copies what is there, undefined too.
  const known = Object.fromEntries(Object.entries(cookie).filter(([, value]) => value !== undefined))
  try {
    const { path = '/', domain } = known
    new Cookie(domain === undefined ? { path } : { path, domain }).serialize('sid', '')
  } catch (error) {
    reader.mistake('', `is refused by the cookie package: ${messageOf(error)}`)
  }
  return Object.freeze(known)
}

function eitherOf(reader: OptionReader, name: string, allowed: readonly unknown[]): unknown {
  const value = reader.raw(name)
  if (value === undefined || allowed.includes(value)) return value
  reader.mistake(name, `must be one of ${allowed.map(show).join(', ')}, got ${show(value)}`)
  return undefined
}

function cookieMadeBy(make: CookieFunction, req: CookieRequest): ResolvedCookieOptions {
  const cookie = make(req) as SessionCookieOptions | undefined
  if (typeof cookie !== 'object' || cookie === null) {
    throw new SharedStateError(
      'ERR_AS_ONE_SESSION',
      `sharedSession: the cookie function must give an object, got ${show(cookie)}`,
    )
  }
  const { maxAge, ...rest } = cookie
  if (maxAge === undefined) return rest
  const ms = maxAge === null ? null : durationMs(maxAge)
  if (ms !== undefined) return { ...rest, maxAge: ms }
  throw new SharedStateError(
    'ERR_AS_ONE_SESSION',
    `sharedSession: the cookie function gave maxAge ${show(maxAge)}, which is no duration`,
  )
}

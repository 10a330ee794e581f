import { createHmac, type KeyObject, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { TLSSocket } from 'node:tls'
import expressSession from 'express-session'
import { Recent } from './recent.ts'

/** express-session's cookie class, with what its type declarations leave out. */
export type SessionCookie = expressSession.Cookie & { serialize(name: string, value: string): string }
export const Cookie: new (options: object) => SessionCookie = expressSession.Cookie as never

/** A signing secret: text, bytes, or text already made into a key. */
export type SecretKey = string | Uint8Array | KeyObject

/** The secrets of a request: the first signs, all verify. */
export interface Secrets {
  readonly keys: readonly SecretKey[]
  /** Cookie values these secrets have signed, as they came; nothing else is remembered. */
  readonly verified: Recent<SignedId>
}

/** A session id whose signature is right. */
export interface SignedId {
  readonly sid: string
  /** Signed with a secret that is no longer the first: the client should get a new cookie. */
  readonly isOld: boolean
}

// A cookie of ours has about 80 characters. Longer ones are verified each time.
const VERIFIED_KEPT = 4_096
const MAX_VERIFIED_LENGTH = 256

export function secretsOf(keys: readonly SecretKey[]): Secrets {
  return { keys, verified: new Recent(VERIFIED_KEPT) }
}

/** What other middleware may have put on the request. */
export interface CookieRequest extends IncomingMessage {
  originalUrl?: string
  /** Express: whether the connection is TLS, as its `trust proxy` setting sees it. */
  secure?: boolean
  /** cookie-parser's findings. */
  cookies?: Readonly<Record<string, unknown>>
  signedCookies?: Readonly<Record<string, unknown>>
}

// Browsers keep cookies of up to 4,096 bytes; no client has many of one name but an attacker.
const MAX_VALUE_LENGTH = 4_096
const MAX_SAME_NAME = 8
const SIGNATURE_LENGTH = 43

/** The session id of the first cookie of this name whose signature is right; undefined when there is none. */
export function readSessionId(req: CookieRequest, name: string, secrets: Secrets): SignedId | undefined {
  const { cookie: header } = req.headers
  if (header?.includes(name)) {
    for (const raw of cookieValues(header, name)) {
      const signed = secrets.verified.get(raw) ?? verify(raw, secrets)
      if (signed !== undefined) return signed
    }
  }
  // As express-session does, for cookie-parser in front of us.
  const signed = req.signedCookies?.[name]
  if (typeof signed === 'string' && signed !== '') return { sid: signed, isOld: false }
  const plain = req.cookies?.[name]
  return typeof plain === 'string' ? unsign(plain, secrets.keys) : undefined
}

/** `s:<sid>.<hmac>`, the format of express-session and cookie-parser. */
export function signSessionId(sid: string, secret: SecretKey): string {
  return `s:${sid}.${hmac(sid, secret)}`
}

function verify(raw: string, { keys, verified }: Secrets): SignedId | undefined {
  const signed = unsign(decoded(raw), keys)
  // A copy: a part of a string keeps the whole of it in memory, here the request's cookie header.
  if (signed !== undefined && raw.length <= MAX_VERIFIED_LENGTH) {
    verified.set(Buffer.from(raw, 'latin1').toString('latin1'), signed)
  }
  return signed
}

function unsign(value: string, secrets: readonly SecretKey[]): SignedId | undefined {
  const dot = value.lastIndexOf('.')
  if (
    !value.startsWith('s:') ||
    value.length > MAX_VALUE_LENGTH ||
    value.length - dot - 1 !== SIGNATURE_LENGTH
  ) {
    return undefined
  }
  const sid = value.slice(2, dot)
  const given = Buffer.from(value.slice(dot + 1))
  if (sid === '' || given.length !== SIGNATURE_LENGTH) return undefined
  const place = secrets.findIndex((secret) => timingSafeEqual(given, Buffer.from(hmac(sid, secret))))
  return place < 0 ? undefined : { sid, isOld: place > 0 }
}

function hmac(sid: string, secret: SecretKey): string {
  return createHmac('sha256', secret).update(sid).digest('base64').slice(0, SIGNATURE_LENGTH)
}

/** All values of one cookie, as they came: a forged one in front must not hide the real one behind it. */
function cookieValues(header: string, name: string): string[] {
  const values: string[] = []
  let from = 0
  while (from < header.length && values.length < MAX_SAME_NAME) {
    const semicolon = header.indexOf(';', from)
    const to = semicolon < 0 ? header.length : semicolon
    const equals = header.indexOf('=', from)
    if (equals >= 0 && equals < to && header.slice(from, equals).trim() === name) {
      values.push(header.slice(equals + 1, to).trim())
    }
    from = to + 1
  }
  return values
}

function decoded(text: string): string {
  const value = text.length > 1 && text.startsWith('"') && text.endsWith('"') ? text.slice(1, -1) : text
  if (!value.includes('%')) return value
  try {
    return decodeURIComponent(value)
  } catch {
    return value
  }
}

/** Whether the client's connection is TLS; `proxy` as in express-session: true trusts X-Forwarded-Proto, undefined Express. */
export function isSecure(req: CookieRequest, proxy: boolean | undefined): boolean {
  if ((req.socket as TLSSocket | undefined)?.encrypted) return true
  if (proxy === false) return false
  if (proxy !== true) return req.secure === true
  const forwarded = req.headers['x-forwarded-proto'] ?? ''
  const first = (Array.isArray(forwarded) ? forwarded.join() : forwarded).split(',', 1)[0] as string
  return first.trim().toLowerCase() === 'https'
}

/** RFC 6265 section 5.1.4, so that `/admin` does not stand for `/administrator`. */
export function isUnderPath(req: CookieRequest, path: string): boolean {
  if (path === '/') return true
  const pathname = pathnameOf(req.originalUrl ?? req.url ?? '/')
  if (!pathname.startsWith(path)) return false
  return pathname.length === path.length || path.endsWith('/') || pathname[path.length] === '/'
}

function pathnameOf(target: string): string {
  if (target.startsWith('/')) return target.split(/[?#]/, 1)[0] as string
  return URL.canParse(target) ? new URL(target).pathname : '/'
}

/** Arguments of `writeHead` with our cookie beside the ones it names itself, which would replace ours. */
export function withSetCookie(
  res: ServerResponse,
  args: readonly unknown[],
  line: string,
): readonly unknown[] {
  const at = args.length - 1
  const headers = args[at]
  if (at > 0 && Array.isArray(headers)) {
    const flat: unknown[] = Array.isArray(headers[0]) ? headers.flat() : headers
    const [own, others]: [unknown[], unknown[]] = [[], []]
    for (let i = 0; i + 1 < flat.length; i += 2) {
      if (isSetCookie(flat[i])) own.push(flat[i + 1])
      else others.push(flat[i], flat[i + 1])
    }
    if (own.length > 0) return [...args.slice(0, at), [...others, 'Set-Cookie', [...own.flat(), line]]]
  } else if (at > 0 && typeof headers === 'object' && headers !== null) {
    const name = Object.keys(headers).find(isSetCookie)
    if (name !== undefined) {
      const own = (headers as Record<string, unknown>)[name]
      return [...args.slice(0, at), { ...headers, [name]: [own, line].flat() }]
    }
  }
  res.appendHeader('Set-Cookie', line)
  return args
}

function isSetCookie(name: unknown): boolean {
  return typeof name === 'string' && name.toLowerCase() === 'set-cookie'
}

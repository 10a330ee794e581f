import type { IncomingMessage } from 'node:http'
import { isIPv4, isIPv6 } from 'node:net'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'

/** What frameworks put on a request. */
interface FrameworkRequest extends IncomingMessage {
  readonly ip?: unknown
  readonly app?: { get?(setting: string): unknown }
}

let warned = false

/**
 * The client of a request: the framework's `req.ip`, else the socket's address.
 *
 * @throws SharedStateError `ERR_AS_ONE_RATE_LIMIT` when it cannot be told, or could be chosen by the client
 */
export function clientKey(request: IncomingMessage): string {
  const { app, ip, socket, headers } = request as FrameworkRequest
  const trust = typeof app?.get === 'function' ? app.get('trust proxy') : undefined
  if (trust === true) {
    throw new SharedStateError(
      'ERR_AS_ONE_RATE_LIMIT',
      "rateLimit: with 'trust proxy' set to true every client chooses its own address; set it to the number of your " +
        "proxies or to their addresses, e.g. app.set('trust proxy', 1), or pass a key function",
    )
  }
  if (headers['x-forwarded-for'] !== undefined && !trust && !warned) {
    warned = true
    process.emitWarning(
      'rateLimit ignores X-Forwarded-For: behind a proxy all clients share one limit until the framework is told ' +
        "of it, e.g. app.set('trust proxy', 1), or a key function is passed",
      { code: 'AS_ONE_FORWARDED_FOR' },
    )
  }
  const address = ip ?? socket.remoteAddress
  if (address !== undefined) return ipKey(address)
  throw new SharedStateError(
    'ERR_AS_ONE_RATE_LIMIT',
    'rateLimit: the request has no client address: it came over a unix socket, or the client has gone; behind a ' +
      "proxy on a unix socket tell the framework, e.g. app.set('trust proxy', 'loopback'), or pass a key function",
  )
}

/**
 * The key of an address: IPv4 as it is, also when mapped into IPv6; IPv6 by its /64, which is what one customer gets.
 *
 * @throws SharedStateError `ERR_AS_ONE_RATE_LIMIT` for anything that is no IP address
 * @example rateLimit({ limit: 100, per: '1m', key: (req) => ipKey(req.headers['cf-connecting-ip']) })
 */
export function ipKey(address: unknown): string {
  if (typeof address === 'string') {
    if (isIPv4(address)) return address
    const bare = address.replace(/%.*$/s, '') // a zone id belongs to this machine, not to the client
    if (isIPv6(bare)) return ipv6Key(bare)
  }
  throw new SharedStateError(
    'ERR_AS_ONE_RATE_LIMIT',
    `rateLimit: the client address must be an IP address without port, got ${show(address)}; pass a key function`,
  )
}

function ipv6Key(address: string): string {
  const groups = groupsOf(address)
  const [, , , , , mark = 0, high = 0, low = 0] = groups
  if (mark === 0xffff && groups.slice(0, 5).every((group) => group === 0)) {
    return `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`
  }
  return `${groups
    .slice(0, 4)
    .map((group) => group.toString(16))
    .join(':')}::/64`
}

/** The eight groups of a valid address. */
function groupsOf(address: string): readonly number[] {
  const [head = [], tail] = address.split('::').map(groupsOfPart)
  if (tail === undefined) return head
  return [...head, ...new Array<number>(8 - head.length - tail.length).fill(0), ...tail]
}

function groupsOfPart(part: string): readonly number[] {
  if (part === '') return []
  return part.split(':').flatMap((group) => {
    if (!group.includes('.')) return [Number.parseInt(group, 16)]
    const [a = 0, b = 0, c = 0, d = 0] = group.split('.').map(Number)
    return [(a << 8) | b, (c << 8) | d]
  })
}

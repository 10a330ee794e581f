import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duration } from '../core/duration.ts'
import { type Neighbours, OptionReader, show } from '../core/options.ts'
import { HEADER_DIALECTS, type HeaderDialect } from './headers.ts'
import type { RateLimitAlgorithm, RateLimitDecision, RateLimitPolicy } from './policy.ts'

export type OnUnavailable = 'local' | 'allow' | 'deny'

export interface RateLimiterOptions {
  /** How much of it, for each key: 1 to 1,000,000,000. */
  limit: number
  /** In how long: 1 ms to 31 days. */
  per: Duration
  /** Part of the keys and of the headers; limiters with one name share their counts and must have the same numbers. @default 'default' */
  name?: string
  /** `'sliding-window'`: never above `limit` in any `per`. `'fixed-window'`: up to twice that across an edge. @default 'sliding-window' */
  algorithm?: RateLimitAlgorithm
  /**
   * While Redis is away: `'local'` counts in this process against its share of the limit on this machine, `'allow'`
   * admits everything, `'deny'` nothing. @default 'local'
   */
  onUnavailable?: OnUnavailable
}

export interface RateLimitOptions<Req extends IncomingMessage = IncomingMessage> extends RateLimiterOptions {
  /** Whose budget a request is counted against. @default the client's address, IPv6 by /64 */
  key?: (req: Req) => string | number | Promise<string | number>
  /** What a request costs, a whole number from 1 to `limit`. @default 1 */
  cost?: number | ((req: Req) => number | Promise<number>)
  /** Requests that are neither counted nor refused. @default none */
  skip?: (req: Req, res: ServerResponse) => boolean | Promise<boolean>
  /** Answers a refused request instead of our 429; the headers are set already. @default 429 with problem+json */
  onLimit?: (
    req: Req,
    res: ServerResponse,
    next: (error?: unknown) => void,
    decision: RateLimitDecision,
  ) => unknown
  /** Which headers tell clients of the limit. @default 'draft-8' */
  headers?: HeaderDialect | false
  /** Counts and reports, but refuses nobody and sends no headers. @default false */
  shadow?: boolean
}

export interface ResolvedLimiterOptions {
  readonly policy: RateLimitPolicy
  readonly onUnavailable: OnUnavailable
}

export interface ResolvedRateLimitOptions<Req extends IncomingMessage> extends ResolvedLimiterOptions {
  readonly key: RateLimitOptions<Req>['key']
  readonly cost: number | ((req: Req) => number | Promise<number>)
  readonly skip: RateLimitOptions<Req>['skip']
  readonly onLimit: RateLimitOptions<Req>['onLimit']
  readonly headers: HeaderDialect | false
  readonly shadow: boolean
}

const INSTANCE = 'REDIS_URL or the redis option of createShared'
const NEIGHBOURS: Neighbours = {
  max: 'limit',
  points: 'limit',
  tokens: 'limit',
  tokensPerInterval: 'limit',
  requests: 'limit',
  windowMs: 'per',
  window: 'per',
  duration: 'per',
  interval: 'per',
  timeWindow: 'per',
  id: 'name',
  identifier: 'name',
  prefix: 'name',
  keyPrefix: 'name',
  keyGenerator: 'key',
  weight: 'cost',
  pointsToConsume: 'cost',
  allowList: 'skip',
  handler: 'onLimit',
  message: 'onLimit',
  statusCode: 'onLimit',
  onExceeded: 'onLimit',
  standardHeaders: 'headers',
  legacyHeaders: "headers: 'legacy'",
  passOnStoreError: "onUnavailable: 'allow'",
  skipOnError: "onUnavailable: 'allow'",
  insuranceLimiter: "onUnavailable: 'local'",
  dryRun: 'shadow',
  store: INSTANCE,
  storeClient: INSTANCE,
  redis: INSTANCE,
  client: INSTANCE,
}

/** As many as a 32-bit count holds with room to spare. */
const MAX_LIMIT = 1_000_000_000
const MAX_PER_MS = 31 * 86_400_000

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake */
export function resolveRateLimiterOptions(options: unknown): ResolvedLimiterOptions {
  const reader = new OptionReader('rateLimiter', options, NEIGHBOURS)
  const resolved = readLimiter(reader)
  reader.done()
  return resolved
}

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake */
export function resolveRateLimitOptions<Req extends IncomingMessage>(
  options: unknown,
): ResolvedRateLimitOptions<Req> {
  const reader = new OptionReader('rateLimit', options, NEIGHBOURS)
  const limiter = readLimiter(reader)
  const resolved: ResolvedRateLimitOptions<Req> = {
    ...limiter,
    key: reader.fn('key'),
    cost:
      typeof reader.raw('cost') === 'function'
        ? (reader.raw('cost') as (req: Req) => number)
        : reader.integer('cost', 1, 1, limiter.policy.limit),
    skip: reader.fn('skip'),
    onLimit: reader.fn('onLimit'),
    headers: reader.raw('headers') === false ? false : reader.oneOf('headers', 'draft-8', HEADER_DIALECTS),
    shadow: reader.boolean('shadow', false),
  }
  reader.done()
  return Object.freeze(resolved)
}

function readLimiter(reader: OptionReader): ResolvedLimiterOptions {
  for (const name of ['limit', 'per']) if (reader.raw(name) === undefined) reader.mistake(name, 'is required')
  const limit = reader.integer('limit', MAX_LIMIT, 1, MAX_LIMIT)
  const perMs = reader.duration('per', MAX_PER_MS, 1)
  if (perMs > MAX_PER_MS) reader.mistake('per', `must be at most 31 days, got ${show(reader.raw('per'))}`)
  const policy: RateLimitPolicy = {
    name: reader.string(
      'name',
      'default',
      /^[A-Za-z0-9._-]{1,64}$/,
      " of 1 to 64 letters, digits, '.', '_' or '-'",
    ),
    limit,
    perMs,
    algorithm: reader.oneOf('algorithm', 'sliding-window', ['sliding-window', 'fixed-window'] as const),
  }
  return {
    policy: Object.freeze(policy),
    onUnavailable: reader.oneOf('onUnavailable', 'local', ['local', 'allow', 'deny'] as const),
  }
}

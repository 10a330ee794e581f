import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duration } from '../core/duration.ts'
import { type Neighbours, OptionReader, show } from '../core/options.ts'
import { HEADER_DIALECTS, type HeaderDialect } from './headers.ts'
import {
  capacityOf,
  type RateLimitAlgorithm,
  type RateLimitDecision,
  type RateLimitPolicy,
} from './policy.ts'
import { MAX_LIMIT } from './subject.ts'

export type OnUnavailable = 'local' | 'allow' | 'deny'

/** One of several limits that are decided together, or the only one. */
export interface RateLimitPolicyOptions {
  /** How much of it, for each key: 1 to 1,000,000,000. */
  limit: number
  /** In how long: 1 ms to 31 days. With `'concurrency'` after how long the slots of a process that died are free again, default 15 s. */
  per?: Duration
  /** Part of the keys and of the headers; limiters with one name share their counts and must have the same numbers. @default 'default' */
  name?: string
  /**
   * `'sliding-window'`: never above `limit` in any `per`. `'gcra'`: a steady rate, at most `burst` at once.
   * `'fixed-window'`: up to twice the limit across an edge. `'concurrency'`: `limit` in flight. @default 'sliding-window'
   */
  algorithm?: RateLimitAlgorithm
  /** How much at once with `'gcra'`. @default `limit` */
  burst?: number
}

/** What several limits share, and a single one has too. */
export interface SharedLimiterOptions {
  /**
   * While Redis is away: `'local'` counts in this process against its share of the limit on this machine, `'allow'`
   * admits everything, `'deny'` nothing. @default 'local'
   */
  onUnavailable?: OnUnavailable
  /** Nothing fits for so long once something was refused. @default none */
  blockFor?: Duration
}

export interface RateLimiterOptions extends RateLimitPolicyOptions, SharedLimiterOptions {
  /**
   * Lets each process take part of the limit of a busy key at once, for at most a second or a tenth of `per`, and decide
   * by itself: for limits of a thousand and more. With `'gcra'` the bound grows by a tenth of `limit`. @default false
   */
  lease?: boolean
}

/** What only requests have. */
export interface RequestLimitOptions<Req extends IncomingMessage = IncomingMessage> {
  /** Whose budget a request is counted against. @default the client's address, IPv6 by /64 */
  key?: (req: Req) => string | number | Promise<string | number>
  /** What a request costs, a whole number from 1 to `limit`. @default 1 */
  cost?: number | ((req: Req) => number | Promise<number>)
  /** Requests that are neither counted nor refused. @default none */
  skip?: (req: Req, res: ServerResponse) => boolean | Promise<boolean>
  /** Gives back what a request has taken whose response is 400 or more, or never got out whole. @default false */
  skipFailed?: boolean
  /** Gives back what a request has taken whose response is less than 400: counts failed logins only. @default false */
  skipSuccessful?: boolean
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

export interface RateLimitOptions<Req extends IncomingMessage = IncomingMessage>
  extends Omit<RateLimiterOptions, 'limit'>,
    RequestLimitOptions<Req> {
  /** How much of it, for each key: 1 to 1,000,000,000, or a function of the request: the plan of this customer. */
  limit: number | ((req: Req) => number | Promise<number>)
}

/** Of several limits that are decided together. */
export interface SeveralLimitsOptions<Req extends IncomingMessage = IncomingMessage>
  extends SharedLimiterOptions,
    RequestLimitOptions<Req> {}

export interface ResolvedLimiterOptions {
  readonly policies: readonly RateLimitPolicy[]
  readonly onUnavailable: OnUnavailable
  readonly lease: boolean
  /** 0 when nobody is blocked. */
  readonly blockMs: number
}

export interface ResolvedRateLimitOptions<Req extends IncomingMessage> extends ResolvedLimiterOptions {
  /** Of a single policy, when each request has its own. */
  readonly limit: ((req: Req) => number | Promise<number>) | undefined
  readonly key: RateLimitOptions<Req>['key']
  readonly cost: number | ((req: Req) => number | Promise<number>)
  readonly skip: RateLimitOptions<Req>['skip']
  readonly refundWhen: 'failed' | 'successful' | undefined
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
  shadowMode: 'shadow',
  skipFailedRequests: 'skipFailed',
  skipSuccessfulRequests: 'skipSuccessful',
  blockDuration: 'blockFor',
  inMemoryBlockOnConsumed: 'nothing: refused keys are remembered until they fit again',
  maxConcurrent: "limit with algorithm: 'concurrency'",
  store: INSTANCE,
  storeClient: INSTANCE,
  redis: INSTANCE,
  client: INSTANCE,
}

/** 31 days: a timer cannot be told much more. */
export const MAX_PER_MS: number = 31 * 86_400_000
const SLOT_MS = 15_000
/** Three heartbeats, and none of them late on a busy machine. */
const MIN_SLOT_MS = 1_000
const MAX_POLICIES = 16
const ALGORITHMS: readonly RateLimitAlgorithm[] = ['sliding-window', 'gcra', 'fixed-window', 'concurrency']

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake */
export function resolveRateLimiterOptions(options: unknown, shared: unknown): ResolvedLimiterOptions {
  const { reader, policies } = open('rateLimiter', options, shared, false)
  const resolved = readLimiter(reader, policies)
  reader.done()
  return resolved
}

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake */
export function resolveRateLimitOptions<Req extends IncomingMessage>(
  options: unknown,
  shared: unknown,
): ResolvedRateLimitOptions<Req> {
  const { reader, policies } = open('rateLimit', options, shared, true)
  const limiter = readLimiter(reader, policies)
  const most = Math.min(...policies.map((policy) => capacityOf(policy, policy.limit || MAX_LIMIT)))
  const skipFailed = reader.boolean('skipFailed', false)
  const skipSuccessful = reader.boolean('skipSuccessful', false)
  if (skipFailed && skipSuccessful) reader.mistake('skipFailed', 'and skipSuccessful together count nothing')
  if ((skipFailed || skipSuccessful) && isConcurrency(limiter))
    reader.mistake(skipFailed ? 'skipFailed' : 'skipSuccessful', "has no meaning with 'concurrency'")
  const limit = Array.isArray(options) ? undefined : reader.raw('limit')
  const resolved: ResolvedRateLimitOptions<Req> = {
    ...limiter,
    limit: typeof limit === 'function' ? (limit as (req: Req) => number) : undefined,
    key: reader.fn('key'),
    cost:
      typeof reader.raw('cost') === 'function'
        ? (reader.raw('cost') as (req: Req) => number)
        : reader.integer('cost', 1, 1, most),
    skip: reader.fn('skip'),
    refundWhen: skipFailed ? 'failed' : skipSuccessful ? 'successful' : undefined,
    onLimit: reader.fn('onLimit'),
    headers: reader.raw('headers') === false ? false : reader.oneOf('headers', 'draft-8', HEADER_DIALECTS),
    shadow: reader.boolean('shadow', false),
  }
  reader.done()
  return Object.freeze(resolved)
}

/** A single policy stands among the shared options, several in an array before them. */
function open(
  path: string,
  options: unknown,
  shared: unknown,
  perRequest: boolean,
): { reader: OptionReader; policies: readonly RateLimitPolicy[] } {
  const mistakes: string[] = []
  if (!Array.isArray(options)) {
    const reader = new OptionReader(path, options, NEIGHBOURS, mistakes)
    if (shared !== undefined) reader.mistake('', 'takes a second argument only after an array of policies')
    return { reader, policies: [readPolicy(reader, perRequest)] }
  }
  const readers = options.map(
    (each, index) => new OptionReader(`${path}[${index}]`, each, NEIGHBOURS, mistakes),
  )
  const policies = readers.map((each) => readPolicy(each, false))
  for (const each of readers) each.close()
  const reader = new OptionReader(path, shared, NEIGHBOURS, mistakes)
  if (policies.length < 1 || policies.length > MAX_POLICIES)
    reader.mistake('', `takes 1 to ${MAX_POLICIES} policies in an array, got ${policies.length}`)
  policies.forEach(({ name, algorithm }, index) => {
    if (policies.findIndex((other) => other.name === name) < index)
      reader.mistake('', `needs a name of its own for each policy, '${name}' is there twice`)
    if (policies.length > 1 && (algorithm === 'fixed-window' || algorithm === 'concurrency'))
      reader.mistake('', `cannot decide '${algorithm}' together with others; give it a limiter of its own`)
  })
  return { reader, policies }
}

function readPolicy(reader: OptionReader, perRequest: boolean): RateLimitPolicy {
  const algorithm = reader.oneOf('algorithm', 'sliding-window', ALGORITHMS)
  const slots = algorithm === 'concurrency'
  const isTold = perRequest && typeof reader.raw('limit') === 'function'
  for (const name of slots ? ['limit'] : ['limit', 'per'])
    if (reader.raw(name) === undefined) reader.mistake(name, 'is required')
  const limit = isTold ? 0 : reader.integer('limit', MAX_LIMIT, 1, MAX_LIMIT)
  const perMs = reader.duration('per', slots ? SLOT_MS : MAX_PER_MS, slots ? MIN_SLOT_MS : 1)
  if (perMs > MAX_PER_MS) reader.mistake('per', `must be at most 31 days, got ${show(reader.raw('per'))}`)
  const burst = reader.integer('burst', undefined, 1, MAX_LIMIT)
  if (burst !== undefined && algorithm !== 'gcra') reader.mistake('burst', "has a meaning with 'gcra' only")
  return Object.freeze({
    name: reader.string(
      'name',
      'default',
      /^[A-Za-z0-9._-]{1,64}$/,
      " of 1 to 64 letters, digits, '.', '_' or '-'",
    ),
    limit,
    perMs,
    algorithm,
    ...(burst !== undefined && burst !== limit && { burst }),
  })
}

function readLimiter(reader: OptionReader, policies: readonly RateLimitPolicy[]): ResolvedLimiterOptions {
  const resolved: ResolvedLimiterOptions = {
    policies: Object.freeze(policies),
    onUnavailable: reader.oneOf('onUnavailable', 'local', ['local', 'allow', 'deny'] as const),
    lease: reader.boolean('lease', false),
    blockMs: reader.duration('blockFor', 0, 1),
  }
  if (resolved.blockMs > MAX_PER_MS)
    reader.mistake('blockFor', `must be at most 31 days, got ${show(reader.raw('blockFor'))}`)
  if (resolved.lease && (policies.length > 1 || isConcurrency(resolved)))
    reader.mistake('lease', 'is for a single policy that counts; several are one command already')
  if (resolved.blockMs > 0 && isConcurrency(resolved))
    reader.mistake('blockFor', "has no meaning with 'concurrency'")
  return resolved
}

function isConcurrency({ policies }: ResolvedLimiterOptions): boolean {
  return policies.some(({ algorithm }) => algorithm === 'concurrency')
}

import type { IncomingMessage, ServerResponse } from 'node:http'
import { defaultContext, type SharedContext } from '../context.ts'
import { limitsUnavailable } from './availability.ts'
import { clientKey } from './client-key.ts'
import { Limiter } from './decide.ts'
import { limitHeaders, problemBody, retryAfterSeconds } from './headers.ts'
import {
  type RateLimitOptions,
  type RateLimitPolicyOptions,
  resolveRateLimitOptions,
  type SeveralLimitsOptions,
} from './options.ts'
import type { RateLimitDecision } from './policy.ts'
import type { RateLimitStats } from './stats.ts'

/** Connect middleware, for Express 4 and 5, Connect and plain `node:http`; `admit` is for frameworks of other forms. */
export interface RateLimitMiddleware<Req extends IncomingMessage = IncomingMessage> {
  (req: Req, res: ServerResponse, next: (error?: unknown) => void): void
  /**
   * True when the request may go on, false when it has been answered. `key` replaces the one of the options: where the
   * framework keeps the client's address elsewhere than on `req.ip`.
   *
   * @throws what the middleware would pass to `next`
   * @example
   * koa.use(async (ctx, next) => {
   *   if (await limit.admit(ctx.req, ctx.res, { key: ipKey(ctx.ip) })) return next()
   *   ctx.respond = false
   * })
   */
  admit(req: Req, res: ServerResponse, given?: { key?: string | number }): Promise<boolean>
  /** What this process has decided since its start. */
  stats(): RateLimitStats
}

declare global {
  namespace Express {
    interface Request {
      /** Of the last limit that this request has passed. */
      rateLimit?: RateLimitDecision
    }
  }
}

/**
 * A limit on requests, one budget for all workers and machines, on the default instance. A refused request gets a 429;
 * what went wrong goes to `next(error)`, never through. Several policies in an array are one decision.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake in the options
 * @example
 * app.use(rateLimit({ limit: 100, per: '1m' }))
 * app.use('/api', rateLimit([{ name: 'burst', limit: 20, per: '1s' }, { name: 'daily', limit: 5_000, per: '1d' }]))
 * app.post('/login', rateLimit({ name: 'login', limit: 5, per: '15m', key: (req: Request) => req.body.email }), login)
 */
export function rateLimit<Req extends IncomingMessage = IncomingMessage>(
  options: RateLimitOptions<Req> | readonly RateLimitPolicyOptions[],
  shared?: SeveralLimitsOptions<Req>,
): RateLimitMiddleware<Req> {
  return createRateLimit(defaultContext(), options, shared)
}

type Next = (error?: unknown) => void

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake in the options */
export function createRateLimit<Req extends IncomingMessage = IncomingMessage>(
  ctx: SharedContext,
  options: RateLimitOptions<Req> | readonly RateLimitPolicyOptions[],
  shared?: SeveralLimitsOptions<Req>,
): RateLimitMiddleware<Req> {
  const {
    key = clientKey,
    limit,
    cost,
    skip,
    refundWhen,
    onLimit,
    headers,
    shadow,
    ...rest
  } = resolveRateLimitOptions<Req>(options, shared)
  const limiter = new Limiter(ctx, rest)
  const names = limiter.policies.map(({ name }) => name).join(', ')
  const isInFlight = limiter.policies.some(({ algorithm }) => algorithm === 'concurrency')

  /** True when the request may go on, false when it has been answered. */
  async function admit(req: Req, res: ServerResponse, next: Next, given?: string | number): Promise<boolean> {
    if (skip && (await skip(req, res))) return true
    const asked = {
      cost: typeof cost === 'function' ? checked(await cost(req)) : cost,
      ...(limit && { limit: checked(await limit(req)) }),
    }
    const beside = (): void => ctx.readAhead.begin(req, res)
    const decision = await limiter.decide(given ?? (await key(req)), true, asked, beside)
    ;(req as Req & { rateLimit?: RateLimitDecision }).rateLimit = decision
    if (decision.allowed) refundLater(res, decision)
    if (shadow) return true
    if (res.headersSent) return decision.allowed // a timeout has answered meanwhile
    if (decision.source === 'none') {
      if (decision.allowed) return true
      res.setHeader('Retry-After', retryAfterSeconds(decision))
      throw limitsUnavailable(`rate limit '${names}'`, limiter.label)
    }
    if (headers) for (const header of limitHeaders(headers, decision)) setHeader(res, header)
    if (decision.allowed) return true
    res.setHeader('Retry-After', retryAfterSeconds(decision))
    if (onLimit) await onLimit(req, res, next, decision)
    else refuse(res, decision)
    return false
  }

  /** When the response is over, however it ended. */
  function refundLater(res: ServerResponse, decision: RateLimitDecision): void {
    if (!isInFlight && !refundWhen) return
    const over = (): void => {
      const failed = !res.writableFinished || res.statusCode >= 400
      // Without an answer of Redis what was taken stays taken: nothing that a response could still tell.
      if (isInFlight || failed === (refundWhen === 'failed')) limiter.refund(decision).catch(() => {})
    }
    if (res.closed || res.destroyed) over()
    else res.once('close', over)
  }

  function rateLimit(req: Req, res: ServerResponse, next: Next): void {
    if (ctx.inert()) {
      next()
      return
    }
    // Outside the promise, so that what the application throws is not taken for ours.
    admit(req, res, next).then(
      (goesOn) => {
        if (goesOn) process.nextTick(next)
      },
      (error: unknown) => process.nextTick(next, error),
    )
  }
  return Object.assign(rateLimit, {
    async admit(req: Req, res: ServerResponse, given: { key?: string | number } = {}) {
      if (ctx.inert()) return true
      let goesOn = false
      const next = (error?: unknown): void => {
        if (error !== undefined) throw error
        goesOn = true // onLimit has let it through
      }
      return (await admit(req, res, next, given.key)) || goesOn
    },
    stats: () => limiter.stats,
  })
}

/** A function that gives nothing has made a mistake; the limiter tells which, instead of taking a default. */
function checked<T>(value: T): T {
  return value === undefined ? (null as T) : value
}

function setHeader(
  res: ServerResponse,
  { name, value, listed }: ReturnType<typeof limitHeaders>[number],
): void {
  const before = listed ? res.getHeader(name) : undefined
  res.setHeader(name, before === undefined ? value : `${before}, ${value}`)
}

function refuse(res: ServerResponse, decision: RateLimitDecision): void {
  const body = problemBody(decision)
  res.statusCode = 429
  res.setHeader('Content-Type', 'application/problem+json')
  res.setHeader('Content-Length', Buffer.byteLength(body))
  res.end(body)
}

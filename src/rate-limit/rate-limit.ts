import type { IncomingMessage, ServerResponse } from 'node:http'
import { defaultContext, type SharedContext } from '../context.ts'
import { clientKey } from './client-key.ts'
import { limitHeaders, problemBody, retryAfterSeconds } from './headers.ts'
import { Limiter, limitsUnavailable } from './limiter.ts'
import { type RateLimitOptions, resolveRateLimitOptions } from './options.ts'
import type { RateLimitDecision } from './policy.ts'

/** Connect middleware, for Express 4 and 5, Connect and plain `node:http`. */
export type RateLimitMiddleware<Req extends IncomingMessage = IncomingMessage> = (
  req: Req,
  res: ServerResponse,
  next: (error?: unknown) => void,
) => void

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
 * what went wrong goes to `next(error)`, never through.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake in the options
 * @example
 * app.use(rateLimit({ limit: 100, per: '1m' }))
 * app.post('/login', rateLimit({ name: 'login', limit: 5, per: '15m', key: (req: Request) => req.body.email }), login)
 */
export function rateLimit<Req extends IncomingMessage = IncomingMessage>(
  options: RateLimitOptions<Req>,
): RateLimitMiddleware<Req> {
  return createRateLimit(defaultContext(), options)
}

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake in the options */
export function createRateLimit<Req extends IncomingMessage = IncomingMessage>(
  ctx: SharedContext,
  options: RateLimitOptions<Req>,
): RateLimitMiddleware<Req> {
  const {
    key = clientKey,
    cost,
    skip,
    onLimit,
    headers,
    shadow,
    ...rest
  } = resolveRateLimitOptions<Req>(options)
  const limiter = new Limiter(ctx, rest)

  /** True when the request may go on, false when it has been answered. */
  async function admit(req: Req, res: ServerResponse, next: (error?: unknown) => void): Promise<boolean> {
    if (skip && (await skip(req, res))) return true
    const decision = await limiter.decide(await key(req), {
      cost: typeof cost === 'function' ? await cost(req) : cost,
      charge: true,
    })
    ;(req as Req & { rateLimit?: RateLimitDecision }).rateLimit = decision
    if (shadow) return true
    if (res.headersSent) return decision.allowed // a timeout has answered meanwhile
    if (decision.source === 'none') {
      if (decision.allowed) return true
      res.setHeader('Retry-After', retryAfterSeconds(decision))
      throw limitsUnavailable(`rate limit '${limiter.policy.name}'`, limiter.label)
    }
    if (headers) for (const header of limitHeaders(headers, decision)) setHeader(res, header)
    if (decision.allowed) return true
    res.setHeader('Retry-After', retryAfterSeconds(decision))
    if (onLimit) await onLimit(req, res, next, decision)
    else refuse(res, decision)
    return false
  }

  return function rateLimit(req, res, next) {
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

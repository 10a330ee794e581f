import type { RateLimitDecision } from './policy.ts'

/** How clients are told of the limit: draft-ietf-httpapi-ratelimit-headers-08 and later, -07, or the old X-RateLimit-*. */
export type HeaderDialect = 'draft-8' | 'draft-7' | 'legacy'

export const HEADER_DIALECTS: readonly HeaderDialect[] = ['draft-8', 'draft-7', 'legacy']

/** Header names and values; `listed` ones take further items when several limits stand in one response. */
export interface LimitHeader {
  readonly name: string
  readonly value: string
  readonly listed: boolean
}

const FORMATTERS: Readonly<Record<HeaderDialect, (decision: RateLimitDecision) => readonly LimitHeader[]>> = {
  'draft-8': draft8,
  'draft-7': draft7,
  legacy,
}

export function limitHeaders(dialect: HeaderDialect, decision: RateLimitDecision): readonly LimitHeader[] {
  return FORMATTERS[dialect](decision)
}

/** Whole seconds, rounded up, so that nobody comes too early. */
export function retryAfterSeconds({ retryAfterMs }: RateLimitDecision): number {
  return Math.max(1, Math.ceil(retryAfterMs / 1_000))
}

/** The body of a refusal: RFC 9457 with the problem type that the draft registers. */
export function problemBody(decision: RateLimitDecision): string {
  const { name, limit, perMs } = decision.policy
  return JSON.stringify({
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    title: 'Too many requests',
    status: 429,
    detail: `The limit of ${limit} per ${perMs / 1_000} s is used up; try again in ${retryAfterSeconds(decision)} s.`,
    'violated-policies': [name],
  })
}

/** A policy's name is a token without quotes or backslashes, so it is a structured-field string as it is. */
function draft8(decision: RateLimitDecision): readonly LimitHeader[] {
  const { policy, remaining } = decision
  return [
    {
      name: 'RateLimit-Policy',
      value: `"${policy.name}";q=${policy.limit};w=${windowSeconds(decision)}`,
      listed: true,
    },
    { name: 'RateLimit', value: `"${policy.name}";r=${remaining};t=${secondsLeft(decision)}`, listed: true },
  ]
}

function draft7(decision: RateLimitDecision): readonly LimitHeader[] {
  const { policy, remaining } = decision
  return [
    { name: 'RateLimit-Policy', value: `${policy.limit};w=${windowSeconds(decision)}`, listed: true },
    {
      name: 'RateLimit',
      value: `limit=${policy.limit}, remaining=${remaining}, reset=${secondsLeft(decision)}`,
      listed: false,
    },
  ]
}

function legacy(decision: RateLimitDecision): readonly LimitHeader[] {
  const { policy, remaining } = decision
  const reset = Math.ceil(Date.now() / 1_000) + secondsLeft(decision)
  return [
    { name: 'X-RateLimit-Limit', value: String(policy.limit), listed: false },
    { name: 'X-RateLimit-Remaining', value: String(remaining), listed: false },
    { name: 'X-RateLimit-Reset', value: String(reset), listed: false },
  ]
}

/** The drafts know whole seconds only; a shorter window reads as a stricter policy than it is, never as a laxer one. */
function windowSeconds({ policy }: RateLimitDecision): number {
  return Math.ceil(policy.perMs / 1_000)
}

/** Until all is back; after a refusal until it is worth another try, so that Retry-After is never the earlier of the two. */
function secondsLeft(decision: RateLimitDecision): number {
  return decision.allowed ? Math.ceil(decision.resetMs / 1_000) : retryAfterSeconds(decision)
}

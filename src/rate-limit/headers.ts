import type { RateLimitDecision, RateLimitPolicy, Verdict } from './policy.ts'

/** How clients are told of the limit: draft-ietf-httpapi-ratelimit-headers-08 and later, -07, or the old X-RateLimit-*. */
export type HeaderDialect = 'draft-8' | 'draft-7' | 'legacy'

export const HEADER_DIALECTS: readonly HeaderDialect[] = ['draft-8', 'draft-7', 'legacy']

/** Header names and values; `listed` ones take further items when several limits stand in one response. */
export interface LimitHeader {
  readonly name: string
  readonly value: string
  readonly listed: boolean
}

type Part = Verdict & { readonly policy: RateLimitPolicy }

const FORMATTERS: Readonly<Record<HeaderDialect, (decision: RateLimitDecision) => readonly LimitHeader[]>> = {
  'draft-8': draft8,
  'draft-7': draft7,
  legacy,
}

export function limitHeaders(dialect: HeaderDialect, decision: RateLimitDecision): readonly LimitHeader[] {
  return FORMATTERS[dialect](decision)
}

/** Whole seconds, rounded up, so that nobody comes too early. */
export function retryAfterSeconds({ retryAfterMs }: Verdict): number {
  return Math.max(1, Math.ceil(retryAfterMs / 1_000))
}

/** The body of a refusal: RFC 9457 with the problem type that the draft registers. */
export function problemBody(decision: RateLimitDecision): string {
  const { limit, perMs, algorithm } = decision.policy
  const amount = algorithm === 'concurrency' ? `${limit} at a time` : `${limit} per ${perMs / 1_000} s`
  const violated = partsOf(decision).filter(({ allowed }) => !allowed)
  return JSON.stringify({
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    title: 'Too many requests',
    status: 429,
    detail: `The limit of ${amount} is used up; try again in ${retryAfterSeconds(decision)} s.`,
    'violated-policies': violated.map(({ policy }) => policy.name),
  })
}

/** A policy's name is a token without quotes or backslashes, so it is a structured-field string as it is. */
function draft8(decision: RateLimitDecision): readonly LimitHeader[] {
  const parts = partsOf(decision)
  const unit = ({ policy }: Part): string =>
    policy.algorithm === 'concurrency' ? 'qu="concurrent-requests"' : `w=${windowSeconds(policy)}`
  return [
    {
      name: 'RateLimit-Policy',
      value: parts.map((part) => `"${part.policy.name}";q=${part.policy.limit};${unit(part)}`).join(', '),
      listed: true,
    },
    {
      name: 'RateLimit',
      value: parts
        .map((part) => `"${part.policy.name}";r=${part.remaining}${timeLeft(part, decision)}`)
        .join(', '),
      listed: true,
    },
  ]
}

/** No wait after which nothing is certain; in a refusal none that is not waited for, so that Retry-After is the latest of all. */
function timeLeft(part: Part, decision: RateLimitDecision): string {
  if (part.policy.algorithm === 'concurrency' || (part.allowed && !decision.allowed)) return ''
  return `;t=${secondsLeft(part)}`
}

function draft7(decision: RateLimitDecision): readonly LimitHeader[] {
  const { policy, remaining } = decision
  return [
    {
      name: 'RateLimit-Policy',
      value: partsOf(decision)
        .map((part) => `${part.policy.limit};w=${windowSeconds(part.policy)}`)
        .join(', '),
      listed: true,
    },
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

function partsOf(decision: RateLimitDecision): readonly Part[] {
  return decision.policies ?? [decision]
}

/** The drafts know whole seconds only; a shorter window reads as a stricter policy than it is, never as a laxer one. */
function windowSeconds({ perMs, algorithm }: RateLimitPolicy): number {
  return algorithm === 'concurrency' ? 1 : Math.ceil(perMs / 1_000)
}

/** Until all is back; after a refusal until it is worth another try, so that Retry-After is never the earlier of the two. */
function secondsLeft(verdict: Verdict): number {
  return verdict.allowed ? Math.ceil(verdict.resetMs / 1_000) : retryAfterSeconds(verdict)
}

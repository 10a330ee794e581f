import { hash } from 'node:crypto'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import { capacityOf, type RateLimitPolicy } from './policy.ts'

/** As many as a 32-bit count holds with room to spare. */
export const MAX_LIMIT = 1_000_000_000
/** Longer keys, and those that are not plain ASCII, are stored by their hash. */
const LONGEST_PLAIN_KEY = 100

/** A hash starts with '#', so no plain key does. */
export function idOf(key: unknown, name: string): string {
  const text = typeof key === 'number' && Number.isFinite(key) ? String(key) : key
  if (typeof text !== 'string' || text === '') {
    throw new SharedStateError(
      'ERR_AS_ONE_RATE_LIMIT',
      `rate limit '${name}': the key must be a non-empty string or a number, got ${show(key)}`,
    )
  }
  if (text.length <= LONGEST_PLAIN_KEY && /^[!-"$-~][!-~]*$/.test(text)) return text
  return `#${hash('sha256', text, 'base64url')}`
}

/** Of a policy whose limit is told with each request, and of any whose caller knows better. */
export function checkLimit(limit: unknown, { name }: RateLimitPolicy): number {
  if (Number.isSafeInteger(limit) && (limit as number) >= 1 && (limit as number) <= MAX_LIMIT) {
    return limit as number
  }
  throw new SharedStateError(
    'ERR_AS_ONE_RATE_LIMIT',
    `rate limit '${name}': limit must be a whole number from 1 to ${MAX_LIMIT}, got ${show(limit)}`,
  )
}

export function checkCost(cost: unknown, policy: RateLimitPolicy, limit: number): void {
  const most = capacityOf(policy, limit)
  if (Number.isSafeInteger(cost) && (cost as number) >= 1 && (cost as number) <= most) return
  const what = most === limit ? 'limit' : 'burst'
  throw new SharedStateError(
    'ERR_AS_ONE_RATE_LIMIT',
    `rate limit '${policy.name}': cost must be a whole number from 1 to the ${what} of ${most}, got ${show(cost)}`,
  )
}

/** What was not asked whether it fits may be more than the limit. */
export function checkPenalty(cost: unknown, { name }: RateLimitPolicy): void {
  if (Number.isSafeInteger(cost) && (cost as number) >= 1 && (cost as number) <= MAX_LIMIT) return
  throw new SharedStateError(
    'ERR_AS_ONE_RATE_LIMIT',
    `rate limit '${name}': a penalty must be a whole number from 1 to ${MAX_LIMIT}, got ${show(cost)}`,
  )
}

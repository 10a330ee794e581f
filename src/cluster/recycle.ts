import type { Beat } from './beat.ts'

/** When a worker that works is replaced all the same. */
export interface RecycleLimits {
  readonly maxMemoryBytes: number | undefined
  readonly maxRequests: number | undefined
  readonly maxAgeMs: number | undefined
}

/** Spreads replacements, so that workers started together do not all go together. */
const JITTER = 0.1

/** A factor for the limits of one worker. */
export function recycleSpread(): number {
  return 1 + JITTER * (2 * Math.random() - 1)
}

/** Why a worker is due for replacement, for people; undefined while it is not. */
export function recycleReason(
  limits: RecycleLimits,
  { beat, ageMs, spread }: { beat: Beat; ageMs: number; spread: number },
): string | undefined {
  const passed = (value: number, limit: number | undefined): boolean =>
    limit !== undefined && value >= limit * spread
  if (passed(beat.memory, limits.maxMemoryBytes))
    return `it uses ${Math.round(beat.memory / 2 ** 20)} MB (recycle.maxMemory)`
  if (passed(beat.requests, limits.maxRequests))
    return `it has served ${beat.requests} requests (recycle.maxRequests)`
  if (passed(ageMs, limits.maxAgeMs)) return `it is ${Math.round(ageMs / 1_000)} s old (recycle.maxAge)`
  return undefined
}

import { setTimeout as sleep } from 'node:timers/promises'

export interface UntilOptions {
  /** What is waited for, as it shall read in the failure: "waited 5000 ms for <what>". */
  what: string
  /** Milliseconds. @default 10_000 */
  deadline?: number
  /** Milliseconds between two looks. @default 20 */
  every?: number
}

export type Truthy<T> = Exclude<T, false | null | undefined | 0 | ''>

/** A process that stood still until after the deadline has not had its last look yet. */
const LAST_LOOK_MS = 500

/**
 * Waits until the condition holds and returns its value; the last look begins after the deadline. A condition that
 * throws does not hold yet; a look that hangs is given up.
 */
export async function until<T>(
  condition: () => T | Promise<T>,
  { what, deadline = 10_000, every = 20 }: UntilOptions,
): Promise<Truthy<T>> {
  const endsAt = performance.now() + deadline
  let last = 'nothing'
  for (let isLast = false; !isLast; await sleep(isLast ? 0 : every)) {
    const leftMs = Math.max(0, endsAt - performance.now())
    isLast = leftMs === 0
    const look = await within(leftMs + LAST_LOOK_MS, attempt(condition))
    if (look === undefined) {
      last = `${last}; the last look never came back`
      break
    }
    if ('error' in look) last = String(look.error)
    else if (look.value) return look.value as Truthy<T>
    else last = print(look.value)
  }
  throw new Error(`waited ${deadline} ms for ${what}; last seen: ${last}`)
}

async function within<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
  const timer = new AbortController()
  try {
    return await Promise.race([promise, sleep(ms, undefined, { signal: timer.signal })])
  } finally {
    timer.abort()
  }
}

async function attempt<T>(condition: () => T | Promise<T>): Promise<{ value: T } | { error: unknown }> {
  try {
    return { value: await condition() }
  } catch (error) {
    return { error }
  }
}

function print(value: unknown): string {
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : String(value)
}

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

/**
 * Waits until the condition holds and returns its value. A condition that throws does not hold yet; one that
 * hangs is given up at the deadline like any other.
 */
export async function until<T>(
  condition: () => T | Promise<T>,
  { what, deadline = 10_000, every = 20 }: UntilOptions,
): Promise<Truthy<T>> {
  const startedAt = performance.now()
  let last = 'nothing'
  const timeUp = Symbol('time up')
  const timer = new AbortController()
  const timeout = sleep(deadline, timeUp, { signal: timer.signal })
  timeout.catch(() => {})
  try {
    while (performance.now() - startedAt < deadline) {
      const looking = attempt(condition)
      const look = await Promise.race([looking, timeout])
      if (typeof look === 'symbol') {
        last = `${last}; the last look never came back`
        break
      }
      if ('error' in look) last = String(look.error)
      else if (look.value) return look.value as Truthy<T>
      else last = print(look.value)
      await Promise.race([sleep(every), timeout])
    }
  } finally {
    timer.abort()
  }
  throw new Error(`waited ${deadline} ms for ${what}; last seen: ${last}`)
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

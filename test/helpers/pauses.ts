import { track } from './cleanup.ts'

const EVERY_MS = 10

/**
 * A busy machine stops this process for a second now and then. What it could not run is no fault of what it waits for:
 * the function returned tells how much of the time since a `performance.now()` that was. Until the end of the test (or
 * else the file).
 */
export function watchPauses(): (since: number) => number {
  const pauses: { end: number; ms: number }[] = []
  let last = performance.now()
  const look = (): void => {
    const now = performance.now()
    const ms = now - last - EVERY_MS
    if (ms > EVERY_MS) pauses.push({ end: now, ms })
    last = now
  }
  const timer = setInterval(look, EVERY_MS).unref()
  track({ [Symbol.asyncDispose]: async () => clearInterval(timer) })
  return (since) => {
    look() // the promise that ends a wait may come before the timer does
    return pauses.reduce((sum, { end, ms }) => sum + Math.max(0, Math.min(ms, end - since)), 0)
  }
}

import { track } from './cleanup.ts'

const TICK_MS = 5
/** More than a timer is late by itself. */
const LATE_MS = 15

/**
 * `performance.now()` less the time for which this process stood still: a busy machine stops it for a second now and
 * then, and that is no fault of what it measures. Runs until the end of the test (or else the file).
 */
export function runningClock(): () => number {
  let stoodStill = 0
  let last = performance.now()
  const overdue = (): number => {
    const late = performance.now() - last - TICK_MS
    return late > LATE_MS ? late : 0
  }
  const timer = setInterval(() => {
    stoodStill += overdue()
    last = performance.now()
  }, TICK_MS).unref()
  track({ [Symbol.asyncDispose]: async () => clearInterval(timer) })
  // What waits for the timer's next turn counts too: the promise that ends a wait may come before it.
  return () => performance.now() - stoodStill - overdue()
}

import { SharedStateError } from './errors.ts'

/** What setTimeout can hold; a longer one would fire at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/**
 * `promise`, given up when `signal` aborts or after `deadlineMs`; the loser's outcome is observed, never unhandled.
 * `onDeadline` makes the error, so that it can tell the state at that moment.
 */
export function withDeadline<T>(
  promise: Promise<T>,
  deadlineMs: number | undefined,
  onDeadline: () => Error,
  signal?: AbortSignal,
): Promise<T> {
  if (signal?.aborted) {
    promise.catch(() => {})
    return Promise.reject(aborted(signal))
  }
  return new Promise<T>((resolve, reject) => {
    const timer =
      deadlineMs === undefined
        ? undefined
        : setTimeout(() => settle(() => reject(onDeadline())), Math.min(deadlineMs, LONGEST_TIMER_MS))
    const onAbort = (): void => settle(() => reject(aborted(signal as AbortSignal)))
    const settle = (finish: () => void): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
      finish()
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    promise.then(
      (value) => settle(() => resolve(value)),
      (error: unknown) => settle(() => reject(error)),
    )
  })
}

/** The error of a wait that its `signal` ended. */
export function aborted(signal: AbortSignal): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_ABORTED', 'the wait was aborted by its signal', {
    cause: signal.reason,
  })
}

/** A turn of the loop this late means that the process was stopped (SIGSTOP, a debugger, a suspended machine) or had no CPU. */
const LATE_MS = 1_000
const STEP_MS = 1_000

/**
 * A timeout that counts only time in which this process could run. A deadline for others that passes while the primary
 * itself is stopped says nothing about them: their messages wait unread. Returns the function that ends it.
 */
export function awakeTimeout(onTimeout: () => void, ms: number): () => void {
  let left = ms
  let timer: NodeJS.Timeout
  const step = (): void => {
    const wait = Math.min(left, STEP_MS)
    const begun = performance.now()
    timer = setTimeout(() => {
      const took = performance.now() - begun
      if (took < wait + LATE_MS) left -= took
      if (left > 0) step()
      else onTimeout()
    }, wait)
  }
  step()
  return () => clearTimeout(timer)
}

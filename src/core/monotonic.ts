/** What `performance.now()` of this process has to be added to; both read CLOCK_MONOTONIC. */
const PROCESS_START_MS: number = machineNow() - performance.now()

/** Milliseconds of the machine's monotonic clock: one clock for all its processes, whatever is done to the date. */
function machineNow(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1_000 + nanoseconds / 1e6
}

/** This moment, as other processes of this machine can read it. */
export function monotonicMs(): number {
  return PROCESS_START_MS + performance.now()
}

/** A moment told by another process of this machine, on this process's `performance.now()` scale. */
export function toLocalMs(monotonic: number): number {
  return monotonic - PROCESS_START_MS
}

import { readFileSync } from 'node:fs'
import { awakeTimeout } from './awake-timeout.ts'
import type { Beat } from './beat.ts'

/** Notices a worker whose event loop does not turn any more. */
export interface HangWatch {
  /** To be called at each sign of life; the first one begins the watch. */
  heard(beat: Beat | undefined): void
  stop(): void
}

/**
 * Silence counts only while this process itself could run, and not against a worker that somebody has stopped: one with
 * an open inspector may be at a breakpoint, one under SIGSTOP or ptrace is where its operator wants it.
 */
export function watchForHang(pid: number, timeoutMs: number, onHang: () => void): HangWatch {
  let cancel: (() => void) | undefined
  let inspected = false
  const listen = (): void => {
    cancel?.()
    cancel = awakeTimeout(() => {
      if (inspected || isStopped(pid)) listen()
      else onHang()
    }, timeoutMs)
  }
  return {
    heard(beat) {
      inspected = beat?.inspected ?? false
      listen()
    },
    stop: () => cancel?.(),
  }
}

/** By SIGSTOP or a tracer; where there is no /proc nobody can say. */
function isStopped(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return /^[Tt]/.test(stat.slice(stat.lastIndexOf(')') + 2)) // the name before it may hold anything
  } catch {
    return false
  }
}

import { readFileSync } from 'node:fs'
import { awakeTimeout } from './awake-timeout.ts'
import { BEAT_MS } from './beat.ts'

/** Notices a worker whose event loop does not turn any more. */
export interface HangWatch {
  /** To be called at each sign of life; the first one begins the watch. */
  heard(inspected: boolean): void
  stop(): void
}

export interface HangWatchOptions {
  readonly pid: number
  readonly timeoutMs: number
  /** How long before the timeout `onSilence` is called; looked up at each sign of life. */
  leadMs(): number
  /** Soon it will have been silent for too long; or it has come back. */
  onSilence(silent: boolean): void
  onHang(): void
}

/** Of the time from the last sign of life to the timeout, at most this part is how late that sign may have been. */
const SIGN_SHARE = 1 / 8

/** How often a worker must give a sign of life, for its silence to be measured well enough. */
export function signEveryMs(timeoutMs: number): number {
  return Math.min(BEAT_MS, timeoutMs * SIGN_SHARE)
}

/**
 * Silence counts only while this process itself could run, and not against a worker that somebody has stopped: one with
 * an open inspector may be at a breakpoint, one under SIGSTOP or ptrace is where its operator wants it.
 */
export function watchForHang({ pid, timeoutMs, leadMs, onSilence, onHang }: HangWatchOptions): HangWatch {
  let cancel = (): void => {}
  let inspected = false
  let silent = false
  const setSilent = (to: boolean): void => {
    if (silent === to) return
    silent = to
    onSilence(to)
  }
  /** If this process was late, what its workers have sent meanwhile is still unread. */
  const after = (ms: number, then: () => void): void => {
    let turns: NodeJS.Immediate | undefined
    const stopWaiting = awakeTimeout(() => {
      turns = setImmediate(() => {
        if (inspected || isStopped(pid)) listen()
        else then()
      })
    }, ms)
    cancel = () => {
      stopWaiting()
      clearImmediate(turns)
    }
  }
  const listen = (): void => {
    cancel()
    setSilent(false)
    const lead = leadMs()
    after(timeoutMs - lead, () => {
      after(lead, onHang)
      setSilent(true)
    })
  }
  return {
    heard(isInspected) {
      inspected = isInspected
      listen()
    },
    stop: () => cancel(),
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

import type { Beat } from './beat.ts'
import type { WorkerHandle } from './worker-handle.ts'

/** One of the `desired` places for a worker. Its index is stable; during a replacement two workers share it. */
export interface Slot {
  readonly index: number
  current: WorkerHandle | undefined
  /** Starts while `current` still serves. */
  next: WorkerHandle | undefined
  /** In case `current`, which has been silent for long, turns out to hang: takes over then, and goes if it does not. */
  spare: WorkerHandle | undefined
  /** Spares in a row that were not needed. */
  falseAlarms: number
  /** Before this moment, by performance.now(), it gets no spare. */
  spareAt: number
  replaceWanted: boolean
  failuresInRow: number
  restarts: number
  /** When a slot whose worker or replacement has failed may try again, by performance.now(). */
  retryAt: number
  /** Left by a stop exit code: stays empty until the next reload or scale. */
  parked: boolean
  firstBoot: 'pending' | 'ready' | 'failed'
}

/** Of the last second; none until a worker has told. */
export interface WorkerStatus extends Partial<Omit<Beat, 'inspected'>> {
  readonly index: number
  readonly pid: number | undefined
  /** `waiting`: for the next attempt after a crash. `parked`: left by one of `backoff.stopExitCodes`. */
  readonly state: 'starting' | 'ready' | 'waiting' | 'parked'
  readonly generation: number | undefined
  readonly uptimeMs: number | undefined
  /** False for a script that never does. */
  readonly listens: boolean
  /** Crashes since the slot exists; replacements at a reload do not count. */
  readonly restarts: number
}

export function emptySlot(index: number): Slot {
  return {
    index,
    current: undefined,
    next: undefined,
    spare: undefined,
    falseAlarms: 0,
    spareAt: 0,
    replaceWanted: false,
    failuresInRow: 0,
    restarts: 0,
    retryAt: 0,
    parked: false,
    firstBoot: 'pending',
  }
}

export function statusOf(slot: Slot): WorkerStatus {
  const worker = slot.current ?? slot.next
  const { inspected: _inspected, ...figures } = worker?.beat ?? {}
  return {
    index: slot.index,
    pid: worker?.pid,
    state: slot.current ? 'ready' : slot.next ? 'starting' : slot.parked ? 'parked' : 'waiting',
    generation: worker?.generation,
    uptimeMs: worker && Date.now() - worker.startedAt,
    listens: worker?.listens ?? false,
    restarts: slot.restarts,
    ...figures,
  }
}

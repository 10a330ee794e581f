import type { Slot } from './slot.ts'
import type { WorkerHandle } from './worker-handle.ts'

/** Replacements for workers that may turn out to hang, started before that is known. */
export interface Spares {
  /** Lets those go whose worker has come back; starts one, if `mayStart`, where a worker is silent. */
  keep(slots: Iterable<Slot>, mayStart: boolean): void
  /** For a reason of the cluster's, which says nothing about the slot. */
  drop(slot: Slot): void
  /** To be called when it has exited by itself. */
  failed(slot: Slot): void
  /** Makes it the slot's next worker, whose current one has gone. */
  use(slot: Slot): void
}

export interface SpareOptions {
  fork(slot: Slot): WorkerHandle
  leave(worker: WorkerHandle): void
  hasRoomFor(slots: readonly Slot[]): boolean
}

/** A boot beside a worker that keeps a core busy takes longer than the last one did. */
const BOOT_MARGIN = 2
const PAUSE_MS = 60_000
const MAX_PAUSE_MS = 3_600_000

export function createSpares({ fork, leave, hasRoomFor }: SpareOptions): Spares {
  const drop = (slot: Slot): void => {
    if (slot.spare) leave(slot.spare)
    slot.spare = undefined
  }
  const pause = (slot: Slot): void => {
    slot.spareAt = performance.now() + sparePauseMs(slot.falseAlarms)
    slot.falseAlarms += 1
  }
  return {
    keep(slots, mayStart) {
      const all = [...slots]
      for (const slot of all) {
        if (!slot.spare || slot.current?.silent) continue
        drop(slot)
        pause(slot)
      }
      // One at a time: what makes one worker slow makes others slow too, and a new process for each would make it worse.
      if (!mayStart || all.some(({ spare }) => spare)) return
      const now = performance.now()
      const slot = all.find(({ current, next, spareAt }) => current?.silent && !next && now >= spareAt)
      if (slot && hasRoomFor([slot])) slot.spare = fork(slot)
    },
    drop,
    failed(slot) {
      slot.spare = undefined
      pause(slot)
    },
    use(slot) {
      if (!slot.spare || slot.next) return
      slot.next = slot.spare
      slot.spare = undefined
      slot.falseAlarms = 0
    },
  }
}

/**
 * How long before a silent worker counts as hung its replacement is started: long enough for the slot to be served again
 * soon after, never before half of the timeout, since most of those that fall silent come back.
 */
export function spareLeadMs(hangTimeoutMs: number, bootMs: number): number {
  return Math.min(hangTimeoutMs / 2, BOOT_MARGIN * bootMs)
}

/** After a spare that was not needed: an app that often blocks for long must not fork as often. */
export function sparePauseMs(falseAlarms: number): number {
  return Math.min(MAX_PAUSE_MS, PAUSE_MS * 2 ** Math.min(falseAlarms, 30))
}

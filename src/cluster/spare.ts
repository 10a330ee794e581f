/** A boot beside a worker that keeps a core busy takes longer than the last one did. */
const BOOT_MARGIN = 2
const PAUSE_MS = 60_000
const MAX_PAUSE_MS = 3_600_000

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

import type { Receipt } from './hub.ts'

/** Publishers of this process that wait to learn what became of their messages. */
export interface Receipts {
  /** A new number and what will be known under it. */
  open(): { id: number; answered: Promise<Receipt> }
  answer(id: number, receipt: Receipt): void
  /** The hub that knew is gone. */
  dropAll(): void
  forget(id: number): void
  /** Resolves when nobody waits any more. */
  settled(): Promise<void>
}

const DROPPED: Receipt = { local: 0, remote: 'dropped' }

export function createReceipts(): Receipts {
  const waiting = new Map<number, (receipt: Receipt) => void>()
  let next = 0
  let onSettled: (() => void) | undefined

  function forget(id: number): void {
    if (waiting.delete(id) && waiting.size === 0) onSettled?.()
  }

  return {
    open() {
      next = next === 0xffff_ffff ? 1 : next + 1 // a u32 on the wire, where 0 is none
      const id = next
      const answered = new Promise<Receipt>((resolve) => waiting.set(id, resolve))
      return { id, answered }
    },
    answer(id, receipt) {
      waiting.get(id)?.(receipt)
      forget(id)
    },
    dropAll() {
      for (const [id, done] of waiting) {
        done(DROPPED)
        forget(id)
      }
    },
    forget,
    settled() {
      if (waiting.size === 0) return Promise.resolve()
      return new Promise((resolve) => {
        onSettled = resolve
      })
    },
  }
}

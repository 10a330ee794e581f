/** What must be closed, in the order it was opened; closed in reverse. */
export interface Closing {
  readonly closed: boolean
  /** Returns a function that takes the entry back, for things that close earlier on their own. */
  add(close: () => void | Promise<void>): () => void
  /** Idempotent; runs every entry even when one fails, then throws what failed. */
  close(): Promise<void>
}

/** What this process has opened and a worker closes after its last request. */
export const processClosing: Closing = createClosing()

export function createClosing(): Closing {
  const entries = new Set<() => void | Promise<void>>()
  let done: Promise<void> | undefined
  return {
    get closed() {
      return done !== undefined
    },
    add(close) {
      entries.add(close)
      return () => entries.delete(close)
    },
    close() {
      done ??= closeAll([...entries].reverse())
      return done
    },
  }
}

async function closeAll(entries: readonly (() => void | Promise<void>)[]): Promise<void> {
  const failures: unknown[] = []
  for (const close of entries) {
    try {
      await close()
    } catch (error) {
      failures.push(error)
    }
  }
  if (failures.length === 1) throw failures[0]
  if (failures.length > 1) throw new AggregateError(failures, 'several resources failed to close')
}

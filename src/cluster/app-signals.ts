type StopSignal = 'SIGINT' | 'SIGTERM'

/** The app's own handlers of SIGINT and SIGTERM, kept from running before the drain. */
export interface AppSignals {
  /** To be called when our own listeners are in place: those that come later are the app's. */
  begin(): void
  /**
   * Runs what the app has for its end: its handlers of the signal, of the other one if it has none, or its listeners of
   * PM2's 'shutdown' message. Resolves when every promise they return has, and never if one returns nothing: it will
   * exit by itself, or the loop empties. False when the app has none.
   */
  deliver(how: 'signal' | 'message'): Promise<boolean>
}

const SIGNALS: readonly StopSignal[] = ['SIGTERM', 'SIGINT']

/**
 * A handler that ends with `server.close()` and `process.exit()` would cut connections that the drain still serves. So
 * signals go to `onSignal` alone, and the handlers run when nothing is connected any more.
 */
export function holdBackSignals(onSignal: (signal: StopSignal) => void): AppSignals {
  const own = (): void => {}
  const hold = (signal: StopSignal): void => {
    const others = process.rawListeners(signal) as NodeJS.SignalsListener[]
    process.removeAllListeners(signal)
    // Node asks the system for a signal once somebody listens, and gives it to what `process.emit` is at that moment.
    // Each connection that is handed over passes through `process.emit`, so it is ours no longer than that.
    const { emit } = process
    process.emit = ((...args: [event: string, ...unknown[]]) => {
      if (args[0] !== signal) return Reflect.apply(emit, process, args) as boolean
      onSignal(signal)
      return true
    }) as typeof emit
    process.on(signal, own)
    process.emit = emit
    for (const other of others) process.on(signal, other)
  }
  for (const signal of SIGNALS) hold(signal)
  // `removeAllListeners('SIGTERM')` of an app means its own; Node would also let go of the signal, which then kills.
  process.on('removeListener', (event, listener) => {
    if (listener === own) hold(event as StopSignal)
  })
  let listenersBefore = 0

  const handlersOf = (signal: StopSignal): ((...args: unknown[]) => unknown)[] =>
    (process.rawListeners(signal) as ((...args: unknown[]) => unknown)[]).filter((each) => each !== own)

  return {
    begin() {
      listenersBefore = process.listenerCount('message')
    },
    async deliver(how) {
      if (how === 'message') {
        if (process.listenerCount('message') === listenersBefore) return false
        process.emit('message', 'shutdown', undefined as never)
        return new Promise(() => {})
      }
      const signal = SIGNALS.find((each) => handlersOf(each).length > 0)
      if (!signal) return false
      const returned = handlersOf(signal).map((handler): unknown => handler.call(process, signal, 15))
      if (returned.some((each) => !isThenable(each))) return new Promise(() => {})
      await Promise.allSettled(returned)
      return true
    },
  }
}

function isThenable(value: unknown): boolean {
  return typeof (value as { then?: unknown } | null | undefined)?.then === 'function'
}

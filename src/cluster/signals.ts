import { messageOf } from '../core/errors.ts'

export interface SignalVerbs {
  stop(): Promise<void>
  kill(): void
  reload(): void
  scale(by: number): void
}

export interface PrimarySignals {
  /** Takes the handlers back. */
  stop(): void
}

const EXIT_CODES: Readonly<Record<string, number>> = { SIGINT: 130, SIGTERM: 143 }

/** TERM and INT stop, a second one at once; HUP reloads; TTIN and TTOU add and remove a worker. */
export function listenToSignals(verbs: SignalVerbs): PrimarySignals {
  let asked = false
  const onStop = (signal: NodeJS.Signals): void => {
    if (asked) {
      verbs.kill()
      // The first stop() goes on and ends soon, now that nothing is left to drain; this is for when it does not.
      setTimeout(() => process.exit(EXIT_CODES[signal]), 2_000).unref()
      return
    }
    asked = true
    verbs.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        process.stderr.write(`as-one: stopping failed: ${messageOf(error)}\n`)
        process.exit(1)
      },
    )
  }
  const handlers: [NodeJS.Signals, (signal: NodeJS.Signals) => void][] = [
    ['SIGTERM', onStop],
    ['SIGINT', onStop],
    ['SIGHUP', () => verbs.reload()],
    ['SIGTTIN', () => verbs.scale(1)],
    ['SIGTTOU', () => verbs.scale(-1)],
  ]
  for (const [signal, handler] of handlers) process.on(signal, handler)
  return {
    stop() {
      for (const [signal, handler] of handlers) process.off(signal, handler)
    },
  }
}

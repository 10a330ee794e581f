import { messageOf } from '../core/errors.ts'

export interface SignalVerbs {
  stop(): Promise<void>
  /** Makes a `stop()` that has begun end at once. */
  kill(): void
  reload?(): void
  scale?(by: number): void
}

export interface Signals {
  /** Takes the handlers back. */
  stop(): void
}

/** Of a stop that a second signal has cut short. */
const CUT_SHORT_CODES: Readonly<Record<string, number>> = { SIGINT: 130, SIGTERM: 143 }
/** One Ctrl-C under `npm start` arrives twice: from the terminal, and passed on by npm. */
const SAME_SIGNAL_MS = 300
const KILL_DEADLINE_MS = 2_000

/** TERM and INT stop, a second one at once; HUP reloads; TTIN and TTOU add and remove a worker. */
export function listenToSignals(verbs: SignalVerbs): Signals {
  let askedAt: number | undefined
  let exitCode = 0
  const onStop = (signal: NodeJS.Signals): void => {
    if (askedAt !== undefined) {
      if (performance.now() - askedAt < SAME_SIGNAL_MS) return
      exitCode = CUT_SHORT_CODES[signal] ?? 1
      verbs.kill()
      // The first stop() goes on and ends soon, now that nothing is left to drain; this is for when it does not.
      setTimeout(() => process.exit(exitCode), KILL_DEADLINE_MS).unref()
      return
    }
    askedAt = performance.now()
    verbs.stop().then(
      () => process.exit(exitCode),
      (error: unknown) => {
        process.stderr.write(`as-one: stopping failed: ${messageOf(error)}\n`)
        process.exit(1)
      },
    )
  }
  const handlers: [NodeJS.Signals, (signal: NodeJS.Signals) => void][] = [
    ['SIGTERM', onStop],
    ['SIGINT', onStop],
  ]
  const { reload, scale } = verbs
  if (reload) handlers.push(['SIGHUP', () => reload()])
  if (scale) handlers.push(['SIGTTIN', () => scale(1)], ['SIGTTOU', () => scale(-1)])
  for (const [signal, handler] of handlers) process.on(signal, handler)
  return {
    stop() {
      for (const [signal, handler] of handlers) process.off(signal, handler)
    },
  }
}

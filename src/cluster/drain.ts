import { channels } from '../core/channels.ts'
import { processClosing } from '../core/closing.ts'
import { messageOf } from '../core/errors.ts'
import type { Connections } from './connections.ts'
import type { SendConnection } from './pass-on.ts'

export interface DrainTimes {
  /** How long to go on accepting, for load balancers that must first notice. */
  readonly delayMs: number
  /** How long idle connections stay open after accepting has stopped. */
  readonly lingerMs: number
  /** For everything together. */
  readonly timeoutMs: number
}

/** Run newest first, each awaited, after the last request. */
export type ShutdownHook = () => unknown

/** What is kept for closing when the deadline cuts the waiting for connections short. */
const CLOSING_SHARE = 0.1

/**
 * Lets every request that has begun finish, and every client learn before its connection closes that it should use
 * another one. Idle connections that `send` takes do not close at all. Resolves with the number of connections that had
 * to be cut.
 */
export async function drain(
  connections: Connections,
  { delayMs, lingerMs, timeoutMs }: DrainTimes,
  hooks: readonly ShutdownHook[],
  send?: SendConnection,
): Promise<number> {
  const deadline = performance.now() + timeoutMs
  connections.closeAfterResponse()
  if (delayMs > 0) await elapsed(delayMs)
  connections.stopAccepting()
  await Promise.race([connections.whenEmpty(), elapsed(lingerMs)])
  await turns(3)
  connections.closeIdle({ lingerMs, send })
  connections.endEventStreams()
  connections.closeUpgraded()
  const closingMs = Math.min(1_000, timeoutMs * CLOSING_SHARE)
  await Promise.race([connections.whenEmpty(), elapsed(deadline - performance.now() - closingMs)])
  const cut = connections.destroyAll()
  await Promise.race([shutDown(hooks), elapsed(deadline - performance.now())])
  return cut
}

async function shutDown(hooks: readonly ShutdownHook[]): Promise<void> {
  for (const hook of [...hooks].reverse()) await attempt(hook)
  await attempt(() => processClosing.close())
}

/** One hook that fails does not keep the next from closing what it opened. */
async function attempt(hook: ShutdownHook): Promise<void> {
  try {
    await hook()
  } catch (error) {
    if (channels.cluster.hasSubscribers) channels.cluster.publish({ event: 'shutdown-hook-failed', error })
    process.emitWarning(`a shutdown hook failed: ${messageOf(error)}`, { code: 'AS_ONE_SHUTDOWN_HOOK' })
  }
}

function elapsed(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)))
}

/** On a late event loop timers come first: what has arrived meanwhile, a handed-over connection and then its request, is read in the next turns. */
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve))
}

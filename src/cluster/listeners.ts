import diagnostics from 'node:diagnostics_channel'
import type { Server } from 'node:net'

/** The sockets a primary listens on for its workers. */
export interface Listeners {
  /** Refuses new connections from now on; those already accepted are still handed to workers. */
  close(): void
  /** Takes the subscription back. */
  stop(): void
}

/** A flood never gets quiet. */
const QUIET_MS = 80
const SHORT_TURN_MS = 0.05

interface ListenHandle {
  readonly fd: number
  onconnection: (...args: never[]) => unknown
  close(): void
}
type ServerWithHandle = Server & { readonly _handle: ListenHandle | null }

/**
 * With round robin the primary closes its socket when the last worker has closed its server, and drops what it has
 * accepted by then but not handed over. So at a stop the socket must go first, while the workers still take connections.
 * Node gives no access to it but this: its net.Server announces the socket, then loses it to cluster's own handle.
 */
export function trackListeners(): Listeners {
  const handles = new Set<ListenHandle>()
  const onListen = (message: unknown): void => {
    const server = (message as { server: ServerWithHandle }).server
    const handle = server._handle
    if (!handle) return
    server.once('listening', () =>
      process.nextTick(() => {
        for (const each of handles) if (each.fd < 0) handles.delete(each)
        if (server._handle === null) handles.add(handle)
      }),
    )
  }
  diagnostics.subscribe('tracing:net.server.listen:asyncEnd', onListen)
  return {
    close() {
      for (const handle of handles) closeWhenQuiet(handle)
      handles.clear()
    },
    stop() {
      diagnostics.unsubscribe('tracing:net.server.listen:asyncEnd', onListen)
    },
  }
}

/**
 * What waits in the kernel to be accepted is reset when the socket closes. So it closes right after a turn of the loop
 * that accepted nothing and was short: who connects between the look and the close is reset, and a turn that had other
 * work to do would make that milliseconds instead of microseconds.
 */
function closeWhenQuiet(handle: ListenHandle): void {
  const { onconnection } = handle
  const begun = performance.now()
  let turnBegun = begun
  let accepted = true
  handle.onconnection = function (...args) {
    accepted = true
    return onconnection.apply(this, args)
  }
  const look = (): void => {
    const now = performance.now()
    const quiet = !accepted && now - turnBegun < SHORT_TURN_MS
    if (quiet || now - begun > QUIET_MS) {
      handle.close()
      return
    }
    accepted = false
    turnBegun = now
    setImmediate(look) // libuv accepts before the next call
  }
  look()
}

import diagnostics from 'node:diagnostics_channel'
import type { Server } from 'node:net'

/** The sockets a primary listens on for its workers. */
export interface Listeners {
  /** Refuses new connections from now on; those already accepted are still handed to workers. */
  close(): void
  /** Has round robin hand over a connection as if it had just been accepted; closes it where nobody listens any more. */
  distribute(connection: Connection): void
  /** Takes the subscription back. */
  stop(): void
}

/** A flood never gets quiet. */
const QUIET_MS = 80
const SHORT_TURN_MS = 0.05

/** As Node's own messages carry it: no socket yet, and nobody reads from it. */
export interface Connection {
  getsockname?(out: Address): number
  close(): void
}

interface Address {
  address?: string
  port?: number
}

interface ListenHandle extends Connection {
  readonly fd: number
  onconnection: (...args: unknown[]) => unknown
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
    distribute(connection) {
      const listening = [...handles].filter((each) => each.fd >= 0)
      const accepted = listening.find((each) => accepts(each, connection, listening))
      if (accepted) accepted.onconnection(0, connection)
      else connection.close()
    },
    stop() {
      diagnostics.unsubscribe('tracing:net.server.listen:asyncEnd', onListen)
    },
  }
}

const ANY_ADDRESS: ReadonlySet<string | undefined> = new Set(['0.0.0.0', '::'])

/** Of unix sockets nobody knows the path: it is theirs if there is but one. */
function accepts(listener: ListenHandle, connection: Connection, all: readonly ListenHandle[]): boolean {
  const to = addressOf(connection)
  const on = addressOf(listener)
  if (!to || !on) return to === on && all.filter((each) => !addressOf(each)).length === 1
  return to.port === on.port && (to.address === on.address || ANY_ADDRESS.has(on.address))
}

function addressOf(handle: Connection): Address | undefined {
  const address: Address = {}
  return handle.getsockname?.(address) === 0 ? address : undefined
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

import type { Worker } from 'node:cluster'

/** What Node's round robin says to a worker; private to Node, so every field is looked at before it is believed. */
interface ClusterMessage {
  readonly cmd?: unknown
  readonly act?: unknown
  readonly ack?: unknown
  readonly seq?: unknown
  readonly key?: unknown
  readonly sockname?: unknown
  readonly errno?: unknown
}

interface HandedOver {
  readonly key: string
  readonly handle: { close(): void }
}

/** Watches the hand-over of connections to one worker. */
interface Watched {
  /** Listening sockets it takes connections of. */
  readonly keys: Set<string>
  /** Handed over and not yet acknowledged, by sequence number. */
  readonly pending: Map<number, HandedOver>
  /** Descriptors on their way, oldest first: the sequence number of a connection, or none. Undefined: no longer known. */
  onTheWay: (number | undefined)[] | undefined
}

/** Before a connection that a worker had no file descriptor for is given to the next one. */
const RETRY_MS = 100

/** For the channel of a dead worker, of which at most a few hundred bytes are left. */
const READ_WITHIN_MS = 500

const watched = new Map<Worker, Watched>()

/**
 * Round robin forgets a connection that it has handed to a worker which dies before taking it: the primary keeps the
 * descriptor open, and the client waits for ever. Here such a connection is given back to round robin in the way a
 * worker that is closing gives it back, as an acknowledgement that says "not accepted"; where no other worker listens,
 * it is closed, so that the client knows. The same goes for one that did not reach a worker which has no file descriptor
 * left: Node would never give that worker another one. Node whose messages look different gets what Node does by itself.
 */
export function redispatchOnDeath(worker: Worker): void {
  const { process: child } = worker
  const send: unknown = child.send
  if (typeof send !== 'function') return
  const own: Watched = { keys: new Set(), pending: new Map(), onTheWay: [] }
  watched.set(worker, own)

  // Node calls `child.send` for its own messages too, with the connection as second argument.
  child.send = function (this: unknown, ...args: unknown[]) {
    note(args[0] as ClusterMessage | null, args[1])
    if (args[1]) own.onTheWay?.push(seqOf(args[0] as ClusterMessage | null))
    return send.apply(this, args) as boolean
  } as typeof child.send

  function note(message: ClusterMessage | null, handle: unknown): void {
    if (message?.cmd !== 'NODE_CLUSTER' || typeof message.key !== 'string') return
    if (message.act === 'newconn') {
      if (typeof message.seq === 'number' && isClosable(handle))
        own.pending.set(message.seq, { key: message.key, handle })
    } else if (message.ack !== undefined && !message.errno) own.keys.add(message.key)
  }

  child.on('internalMessage' as 'message', (received: unknown) => {
    const message = received as ClusterMessage | null
    if (message?.cmd === 'NODE_HANDLE_ACK') own.onTheWay?.shift()
    else if (message?.cmd === 'NODE_HANDLE_NACK') notArrived()
    if (message?.cmd !== 'NODE_CLUSTER') return
    if (typeof message.ack === 'number') own.pending.delete(message.ack)
    else if (message.act === 'close' && typeof message.key === 'string') own.keys.delete(message.key)
  })

  function notArrived(): void {
    const seq = own.onTheWay?.shift()
    // What an app sends to its worker Node may send again: from here on nobody knows which one is meant.
    if (seq === undefined) own.onTheWay = undefined
    else setTimeout(() => own.pending.has(seq) && watched.has(worker) && giveBack(worker, seq), RETRY_MS)
  }

  // Until the channel has been read to its end an acknowledgement may still come. 'disconnect' alone will not do: Node
  // holds it back for ever while a handle is on its way.
  const onEnd = (): void => settleOnceRead(performance.now() + READ_WITHIN_MS)
  function settleOnceRead(deadline: number): void {
    if (child.connected && performance.now() < deadline) setTimeout(settleOnceRead, 1, deadline)
    else settle()
  }
  function settle(): void {
    if (!watched.delete(worker)) return
    for (const [seq, { key, handle }] of own.pending) {
      if ([...watched.values()].some((other) => other.keys.has(key))) giveBack(worker, seq)
      else handle.close()
    }
    own.pending.clear()
  }
  // Both after Node's own listeners, which have taken the worker out of the rotation by then.
  child.once('exit', onEnd)
  child.once('disconnect', onEnd)
}

function seqOf(message: ClusterMessage | null): number | undefined {
  const isConnection = message?.cmd === 'NODE_CLUSTER' && message.act === 'newconn'
  return isConnection && typeof message.seq === 'number' ? message.seq : undefined
}

function giveBack({ process: child }: Worker, seq: number): void {
  child.emit('internalMessage', { cmd: 'NODE_CLUSTER', ack: seq, accepted: false })
}

function isClosable(handle: unknown): handle is { close(): void } {
  return typeof (handle as { close?: unknown } | null | undefined)?.close === 'function'
}

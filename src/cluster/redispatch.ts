import type { Worker } from 'node:cluster'

/** What Node's round robin says to a worker; private to Node, so every field is looked at before it is believed. */
interface ClusterMessage {
  readonly cmd?: unknown
  readonly act?: unknown
  readonly ack?: unknown
  /** Ours: the descriptor has arrived too, see `acknowledgeOnce`. */
  readonly arrived?: unknown
  readonly seq?: unknown
  readonly key?: unknown
  readonly sockname?: unknown
  readonly errno?: unknown
}

interface HandedOver {
  readonly seq: number
  readonly key: string
  readonly handle: { close(): void }
}

/** Watches the hand-over of connections to one worker. */
interface Watched {
  /** Listening sockets it takes connections of. */
  readonly keys: Set<string>
  /** Handed over and not yet acknowledged: one per listening socket, since round robin waits for the answer. */
  readonly pending: HandedOver[]
  /** Descriptors on their way, oldest first: that of a connection, or of something else. Undefined: no longer known. */
  onTheWay: (HandedOver | undefined)[] | undefined
}

/** Before a connection that a worker had no file descriptor for is given to the next one. */
const RETRY_MS = 100

/** For the channel of a dead worker, of which at most a few hundred bytes are left. */
const READ_WITHIN_MS = 500

const ARRIVED: ClusterMessage = { cmd: 'NODE_HANDLE_ACK' }

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
  const own: Watched = { keys: new Set(), pending: [], onTheWay: [] }
  watched.set(worker, own)

  // Node calls `child.send` for its own messages too, with the connection as second argument. This and the listener below
  // run for each connection of the cluster: no rest arguments, no Map, at most one small object.
  child.send = function (
    this: unknown,
    message: unknown,
    handle?: unknown,
    options?: unknown,
    sent?: unknown,
  ) {
    if (handle && typeof handle === 'object')
      own.onTheWay?.push(noteConnection(message as ClusterMessage | null, handle))
    else noteListening(message as ClusterMessage | null)
    return send.call(this, message, handle, options, sent) as boolean
  } as typeof child.send

  function noteConnection(message: ClusterMessage | null, handle: unknown): HandedOver | undefined {
    if (!isHandedOver(message) || !isClosable(handle)) {
      noteListening(message) // with `balance: 'os'` the answer carries the listening socket
      return undefined
    }
    const handedOver = { seq: message.seq, key: message.key, handle }
    own.pending.push(handedOver)
    return handedOver
  }

  function noteListening(message: ClusterMessage | null): void {
    if (message?.cmd !== 'NODE_CLUSTER' || message.ack === undefined || message.errno) return
    if (typeof message.key === 'string') own.keys.add(message.key)
  }

  // Before Node's own listeners: those send the next connection, and only once the descriptor is known to have arrived.
  child.prependListener('internalMessage' as 'message', (received: unknown) => {
    const message = received as ClusterMessage | null
    if (message?.cmd === 'NODE_CLUSTER') {
      if (typeof message.ack === 'number') {
        if (message.arrived) child.emit('internalMessage', ARRIVED, undefined)
        acknowledged(message.ack)
      } else if (message.act === 'close' && typeof message.key === 'string') own.keys.delete(message.key)
    } else if (message?.cmd === 'NODE_HANDLE_ACK') takeOldest(own.onTheWay)
    else if (message?.cmd === 'NODE_HANDLE_NACK') notArrived()
  })

  function acknowledged(seq: number): void {
    if (own.pending[0]?.seq === seq) takeOldest(own.pending)
    else own.pending.splice(0, Infinity, ...own.pending.filter((each) => each.seq !== seq))
  }

  function notArrived(): void {
    const lost = takeOldest(own.onTheWay)
    // What an app sends to its worker Node may send again: from here on nobody knows which one is meant.
    if (lost === undefined) own.onTheWay = undefined
    else
      setTimeout(() => {
        if (own.pending.includes(lost) && watched.has(worker)) giveBack(worker, lost.seq)
      }, RETRY_MS)
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
    for (const { seq, key, handle } of own.pending.splice(0)) {
      if ([...watched.values()].some((other) => other.keys.has(key))) giveBack(worker, seq)
      else handle.close()
    }
  }
  // Both after Node's own listeners, which have taken the worker out of the rotation by then.
  child.once('exit', onEnd)
  child.once('disconnect', onEnd)
}

/** Of a list that has but one, as these have unless an app sends handles of its own, `pop` takes no call into V8. */
function takeOldest<Item>(list: Item[] | undefined): Item | undefined {
  return list?.length === 1 ? list.pop() : list?.shift()
}

function giveBack({ process: child }: Worker, seq: number): void {
  child.emit('internalMessage', { cmd: 'NODE_CLUSTER', ack: seq, accepted: false })
}

export function isHandedOver(message: unknown): message is { readonly seq: number; readonly key: string } {
  const { cmd, act, seq, key } = (message ?? {}) as ClusterMessage
  return cmd === 'NODE_CLUSTER' && act === 'newconn' && typeof seq === 'number' && typeof key === 'string'
}

function isClosable(handle: unknown): handle is { close(): void } {
  return typeof (handle as { close?: unknown } | null | undefined)?.close === 'function'
}

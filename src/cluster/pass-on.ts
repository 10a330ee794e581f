import type { Socket } from 'node:net'

/** What Node keeps beneath a socket of a HTTP server; private to it, so every part is looked at before it is believed. */
interface HttpSocket {
  readonly _handle?: object | null
  /** How long the request that it reads has been coming, 0 between two. */
  readonly parser?: { duration?(): number } | null
}

interface Readable {
  readStop(): number
}

/** Sends a connection to the primary; `sent` is called once it is in the kernel's hands, or with the reason why not. */
export type SendConnection = (connection: object, sent: (error: Error | null) => void) => void

/** Takes an idle connection over; at its turn `isIdle` has the last word. */
export type PassOn = (socket: Socket, isIdle: () => boolean) => void

/** Whether a part of a request has been read, which nobody else could answer then. */
export function hasBegunRequest(socket: Socket): boolean {
  const { parser } = socket as HttpSocket
  // The clock of a connection that has never said anything runs too.
  return socket.bytesRead > 0 && typeof parser?.duration === 'function' && parser.duration() > 0
}

/** Node 22 and 24 were seen to leave a connection that came so without an answer: there it is closed, as by Node itself. */
const IS_PROVEN = process.versions.node.startsWith('20.')

/** False where Node does not let us know for sure. */
export function canPassOn(socket: Socket): boolean {
  const { _handle: handle, parser } = socket as HttpSocket
  return (
    IS_PROVEN &&
    !socket.destroyed &&
    !socket.writableEnded &&
    /^(TCP|Pipe)$/.test(handle?.constructor.name ?? '') &&
    typeof (handle as Partial<Readable>).readStop === 'function' &&
    typeof parser?.duration === 'function'
  )
}

/**
 * To close an idle connection is to race with its next request: one that crosses the FIN on its way is lost, and a POST
 * its client must not send again. So a worker that goes gives its idle connections to the primary, which has another one
 * go on with them; what arrives meanwhile waits in the kernel, and the client sees nothing at all.
 */
export function passOnBy(send: SendConnection, otherwise: (socket: Socket) => void): PassOn {
  let last: Promise<void> = Promise.resolve()
  const pass = (socket: Socket): Promise<void> => {
    const handle = (socket as HttpSocket)._handle as Readable
    socket.setTimeout(0)
    handle.readStop() // from here on no byte of it is read in this process
    return new Promise((resolve) =>
      send(handle, (error) => {
        if (error) otherwise(socket)
        else socket.destroy() // our end of it alone
        resolve()
      }),
    )
  }
  // One after the other, so that each is read from until it is really sent.
  return (socket, isIdle) => {
    last = last.then(() => (isIdle() ? pass(socket) : undefined))
  }
}

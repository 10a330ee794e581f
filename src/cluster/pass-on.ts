import type { Socket } from 'node:net'

/** What Node keeps beneath a socket of a HTTP server; private to it, so every part is looked at before it is believed. */
interface HttpSocket {
  readonly _handle?: object | null
  readonly parser?: object | null
  readonly server?: object
}

/** In which a HTTP server has its parsers, to find those that have been idle, or at one request, for too long. */
interface ParserList {
  /** Of those between two requests; of one that has never read anything the clock runs. */
  idle(): readonly object[]
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
  const { bytesRead } = socket
  if (bytesRead === 0 || restingAt.get(socket) === bytesRead) return false
  const { parser, server } = socket as HttpSocket
  const list = parserListOf(server)
  if (!list || !parser) return false
  if (!idleParsers(list).has(parser)) return true
  restingAt.set(socket, bytesRead)
  return false
}

/** How much a connection had read when it was seen between two requests: as long as it is no more, it still is. */
const restingAt = new WeakMap<Socket, number>()
let looked: { readonly list: ParserList; readonly idle: ReadonlySet<object> } | undefined

/** One look serves whoever asks in the same turn, in which nothing can be read: with thousands of connections each is slow. */
function idleParsers(list: ParserList): ReadonlySet<object> {
  if (looked?.list !== list) {
    looked = { list, idle: new Set(list.idle()) }
    queueMicrotask(() => {
      looked = undefined
    })
  }
  return looked.idle
}

function parserListOf(server: object | undefined): ParserList | undefined {
  if (!server) return undefined
  // A parser has known it itself, by `duration()`, in Node 20 alone.
  const key = Object.getOwnPropertySymbols(server).find(
    ({ description }) => description === 'http.server.connections',
  )
  const list = key && (server as Record<symbol, Partial<ParserList> | undefined>)[key]
  return typeof list?.idle === 'function' ? (list as ParserList) : undefined
}

/** False where Node does not let us know for sure. */
export function canPassOn(socket: Socket): boolean {
  const { _handle: handle, parser, server } = socket as HttpSocket
  return (
    !socket.destroyed &&
    !socket.writableEnded &&
    /^(TCP|Pipe)$/.test(handle?.constructor.name ?? '') &&
    typeof (handle as Partial<Readable>).readStop === 'function' &&
    Boolean(parser) &&
    parserListOf(server) !== undefined
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

import diagnostics from 'node:diagnostics_channel'
import { EventEmitter } from 'node:events'
import { Server as HttpServer, type ServerResponse } from 'node:http'
import { Server as HttpsServer } from 'node:https'
import { Server, type Socket } from 'node:net'
import { type Http2Drain, http2Drain, isHttp2 } from './http2-drain.ts'
import { canPassOn, hasBegunRequest, passOnBy, type SendConnection } from './pass-on.ts'
import { responsesInFlight } from './response-in-flight.ts'
import { noteTlsSockets, sayGoingAway, tlsSocketOver } from './upgraded.ts'

/**
 * Every server and connection of this process, whoever made them, so that they can be drained without the app's help.
 * Filled from Node's own diagnostics channels, before any user code runs. It stands in the way of every connection and
 * request, so until the drain a request is counted, and what else there is to know is looked up when it is asked for.
 */
export interface Connections {
  counts(): { readonly requests: number; readonly inFlight: number; readonly connections: number }
  /** No more connections. Idle ones stay: `http.Server.close()` would cut them while a request is on its way. */
  stopAccepting(): void
  /** From now on every response says `Connection: close`, those already begun included if their headers are unsent. */
  closeAfterResponse(): void
  /**
   * Ends HTTP connections without a request in flight, those that never sent one included, and from now on each one
   * after its last response. Those that `send` takes go on in another process instead, where that can be.
   */
  closeIdle(how: { readonly lingerMs: number; readonly send: SendConnection | undefined }): void
  /** Tells connections that have been upgraded that this worker goes: each server emits 'drain', WebSockets get a 1001. */
  closeUpgraded(): void
  /** Ends streams that would go on for ever: `text/event-stream` responses get their last chunk. */
  endEventStreams(): void
  /** Cuts what is left. */
  destroyAll(): number
  /** Resolves when nothing is connected any more. */
  whenEmpty(): Promise<void>
  /** Leaves alone what this process serves from now on. */
  untrack(): void
}

interface RequestStart {
  readonly socket: Socket
  readonly response: ServerResponse
}

export function trackConnections(): Connections {
  const servers = new Set<Server>()
  const http2: Http2Drain = http2Drain()
  const sockets = new Set<Socket>()
  const inFlight = responsesInFlight()
  let closing = false
  let whenIdle: ((socket: Socket) => void) | undefined
  let onEmpty: (() => void) | undefined
  let requests = 0

  // One for all of them: a closure per connection would cost more than all the rest here.
  function onClose(this: Socket): void {
    sockets.delete(this)
    if (sockets.size === 0) onEmpty?.()
  }
  const responseOf = (socket: Socket): ServerResponse | undefined => inFlight.of(httpSocketOf(socket))
  /** To be the connection's last one, but for those that its client has sent already. */
  const finish = (socket: Socket, response: ServerResponse): void => {
    if (!response.headersSent) response.shouldKeepAlive = false
    response.once('close', () => {
      const next = responseOf(socket)
      if (next === undefined) whenIdle?.(socket)
      else if (next !== response) finish(socket, next) // a pipelined one
    })
  }

  const sources: Record<string, (message: unknown) => void> = {
    'tracing:net.server.listen:asyncEnd'(message) {
      const { server } = message as { server: Server }
      servers.add(server)
      if (isHttp2(server)) http2.watch(server)
      noteTlsSockets(server)
      server.once('close', () => servers.delete(server))
    },
    'net.server.socket'(message) {
      const { socket } = message as { socket: Socket }
      sockets.add(socket)
      // Past what streams and HTTP do in on() for events that are none of ours.
      EventEmitter.prototype.on.call(socket, 'close', onClose)
    },
    'http.server.request.start'(message) {
      requests += 1
      if (!closing && !inFlight.begun) return
      const { socket, response } = message as RequestStart
      inFlight.begun?.(socket, response)
      if (closing) finish(connectionOf(socket), response)
    },
  }
  for (const [channel, listener] of Object.entries(sources)) diagnostics.subscribe(channel, listener)

  return {
    counts() {
      let busy = http2.inFlight()
      for (const socket of sockets) if (responseOf(socket)) busy += 1
      return { requests: requests + http2.requests(), inFlight: busy, connections: sockets.size }
    },
    stopAccepting() {
      for (const server of servers) if (server.listening) Server.prototype.close.call(server)
    },
    closeAfterResponse() {
      closing = true
      for (const socket of sockets) {
        const response = responseOf(socket)
        if (response) finish(socket, response)
      }
      http2.announce()
    },
    closeIdle({ lingerMs, send }) {
      const passOn = send && passOnBy(send, endSoon)
      const isIdle = (socket: Socket): boolean =>
        sockets.has(socket) &&
        !responseOf(socket) &&
        isHttp(socket) &&
        !isUpgraded(httpSocketOf(socket)) &&
        !http2.has(socket) &&
        !hasBegunRequest(httpSocketOf(socket))
      const end = (socket: Socket): void => {
        if (!isIdle(socket)) return
        if (passOn && isPlainHttp(socket) && canPassOn(socket))
          passOn(socket, () => isIdle(socket) && canPassOn(socket))
        else endSoon(socket)
      }
      // A response that had promised to keep its connection ends: its client's next request may be on its way.
      whenIdle = passOn ? end : (socket) => void setTimeout(end, lingerMs, socket)
      for (const socket of sockets) end(socket)
      http2.close()
    },
    closeUpgraded() {
      for (const server of servers) server.emit('drain')
      for (const socket of sockets) sayGoingAway(socket)
    },
    endEventStreams() {
      for (const socket of sockets) {
        const response = responseOf(socket)
        if (!response || !isEventStream(response)) continue
        response.on('error', () => {}) // the app may write once more before it notices
        response.end()
      }
      http2.endEventStreams()
    },
    destroyAll() {
      const left = sockets.size
      for (const socket of sockets) socket.destroy()
      return left
    },
    whenEmpty() {
      if (sockets.size === 0) return Promise.resolve()
      return new Promise((resolve) => {
        onEmpty = resolve
      })
    },
    untrack() {
      for (const [channel, listener] of Object.entries(sources)) diagnostics.unsubscribe(channel, listener)
    },
  }
}

/** Under TLS the request belongs to the TLSSocket, the connection to the socket beneath it. */
function connectionOf(socket: Socket): Socket {
  return (socket as Socket & { _parent?: Socket })._parent ?? socket
}

function httpSocketOf(connection: Socket): Socket {
  return tlsSocketOver(connection) ?? connection
}

/** `getHeader()` does not know what was given to `writeHead()`, the usual way to begin a stream; the text sent has both. */
function isEventStream(response: ServerResponse): boolean {
  const { _header: sent } = response as ServerResponse & { _header?: string | null }
  return /^content-type: *text\/event-stream/im.test(sent ?? '')
}

/** Whether we can tell when it is idle. Of any other protocol only the app knows, until the deadline. */
function isHttp(socket: Socket): boolean {
  const { server } = socket as Socket & { server?: unknown }
  return (
    server instanceof HttpServer ||
    server instanceof HttpsServer ||
    (server instanceof Server && isHttp2(server))
  )
}

/** What is read of it is text, and its state is in no library: another process can go on with it. */
function isPlainHttp(socket: Socket): boolean {
  return (socket as Socket & { server?: unknown }).server instanceof HttpServer
}

/** After an upgrade the http parser has let go of the socket: it belongs to the app, until it or the deadline ends it. */
function isUpgraded(socket: Socket): boolean {
  const { parser } = socket as Socket & { parser?: unknown }
  return parser === null
}

/** FIN first: a client that was about to send its next request sees an orderly end instead of a reset. */
function endSoon(socket: Socket): void {
  socket.end()
  setTimeout(() => socket.destroy(), 500).unref()
}

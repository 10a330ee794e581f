import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Server, Socket } from 'node:net'

/** What draining takes for HTTP/2, where one connection carries many requests. */
export interface Http2Drain {
  watch(server: Server): void
  /** Whether the connection carries a session; a HTTP/1 client of the same server has none. */
  has(socket: Socket): boolean
  requests(): number
  inFlight(): number
  /** First GOAWAY: begin no more on this connection. It names no last stream, for some may be on their way: RFC 9113, 6.8. */
  announce(): void
  /** Second GOAWAY: streams that have begun finish, then the connection closes. */
  close(): void
  /** `text/event-stream` responses get their end. */
  endEventStreams(): void
}

/** RFC 9113, 6.8: the last stream identifier of a GOAWAY that announces another one. */
const NO_LAST_STREAM = 2 ** 31 - 1
const NO_ERROR = 0

/** Without a look at node:http2, which a worker that does not use it need not load. */
export function isHttp2(server: Server): boolean {
  return typeof (server as { updateSettings?: unknown }).updateSettings === 'function'
}

export function http2Drain(): Http2Drain {
  const sessions = new Map<ServerHttp2Session, Set<ServerHttp2Stream>>()
  let requests = 0
  let announced = false

  const onSession = (session: ServerHttp2Session): void => {
    const streams = new Set<ServerHttp2Stream>()
    sessions.set(session, streams)
    mark(session)
    session.once('close', () => sessions.delete(session))
    session.on('stream', (stream: ServerHttp2Stream) => {
      requests += 1
      streams.add(stream)
      stream.once('close', () => streams.delete(stream))
    })
    // It was in its handshake when the drain began. Told before its first request has come, its client never sends that.
    if (announced) session.once('stream', () => sayGoAway(session))
  }

  return {
    watch: (server) => void server.on('session', onSession),
    has: (socket) => SPEAKS_HTTP2 in socket,
    requests: () => requests,
    inFlight: () => [...sessions.values()].reduce((sum, streams) => sum + streams.size, 0),
    announce() {
      announced = true
      for (const session of sessions.keys()) sayGoAway(session)
    },
    close() {
      for (const session of sessions.keys()) session.close()
    },
    endEventStreams() {
      for (const streams of sessions.values()) {
        for (const stream of streams) {
          if (!/^text\/event-stream/i.test(String(stream.sentHeaders?.['content-type'] ?? ''))) continue
          stream.on('error', () => {}) // the app may write once more before it notices
          stream.end()
        }
      }
    },
  }
}

function sayGoAway(session: ServerHttp2Session): void {
  if (!session.destroyed) session.goaway(NO_ERROR, NO_LAST_STREAM)
}

const SPEAKS_HTTP2: unique symbol = Symbol('as-one.http2') as never
type Marked = { [SPEAKS_HTTP2]?: true }

/** The session shows its socket only through a proxy, which cannot be compared; but what is set on it is set on the socket. */
function mark(session: ServerHttp2Session): void {
  const socket = session.socket as Socket & Marked & { _parent?: Socket & Marked }
  ;(socket._parent ?? socket)[SPEAKS_HTTP2] = true // under TLS the accepted one lies beneath
}

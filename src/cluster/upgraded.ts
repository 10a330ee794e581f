import type { Server, Socket } from 'node:net'

/** RFC 6455, 7.4.1: an endpoint is going away, such as a server going down. */
const GOING_AWAY = 1001

interface WebSocketLike {
  readonly readyState: number
  close(code: number, reason: string): void
}

/**
 * The library ws, and all that is built on it, leaves its WebSocket on the socket: closed through it the client gets a
 * close frame in its place among the others. What else speaks over an upgraded socket is its app's to end.
 */
export function sayGoingAway(socket: Socket): void {
  for (const each of [socket, tlsSocketOver(socket)]) {
    const webSocket = each && webSocketOf(each)
    if (webSocket) webSocket.close(GOING_AWAY, 'the server is going away')
  }
}

function webSocketOf(socket: object): WebSocketLike | undefined {
  const symbol = Object.getOwnPropertySymbols(socket).find(({ description }) => description === 'websocket')
  const found: unknown = symbol && (socket as Record<symbol, unknown>)[symbol]
  if (typeof found !== 'object' || found === null) return undefined
  const { close, readyState } = found as Partial<WebSocketLike>
  return typeof close === 'function' && typeof readyState === 'number' ? (found as WebSocketLike) : undefined
}

const tlsSockets = new WeakMap<Socket, Socket>()

/** Under TLS the app talks to the socket above the one that was accepted. */
export function tlsSocketOver(accepted: Socket): Socket | undefined {
  return tlsSockets.get(accepted)
}

/** Node knows the way down from a TLS socket to the one that was accepted, not the way up. */
export function noteTlsSockets(server: Server): void {
  server.on('secureConnection', (tlsSocket: Socket & { _parent?: Socket }) => {
    if (tlsSocket._parent) tlsSockets.set(tlsSocket._parent, tlsSocket)
  })
}

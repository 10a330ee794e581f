import { type IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'

/** Which response a connection is waiting for. */
export interface ResponsesInFlight {
  /** Called for each request where Node does not keep this itself; undefined where it does. */
  readonly begun: ((socket: Socket, response: ServerResponse) => void) | undefined
  /** `socket` is the one that HTTP is spoken over: under TLS not the one that was accepted. */
  of(socket: Socket): ServerResponse | undefined
}

type HttpSocket = Socket & { readonly _httpMessage?: ServerResponse | null }

/**
 * Node's HTTP server leaves the response in flight on its socket, which costs a request nothing; but it is private, so
 * it is tried out first. A Node that does otherwise has it noted here, request by request.
 */
export function responsesInFlight(): ResponsesInFlight {
  if (nodeKeepsThem())
    return { begun: undefined, of: (socket) => (socket as HttpSocket)._httpMessage ?? undefined }
  const last = new WeakMap<Socket, ServerResponse>()
  return {
    begun: (socket, response) => void last.set(socket, response),
    of(socket) {
      const response = last.get(socket)
      return response && !response.writableFinished && !response.destroyed ? response : undefined
    },
  }
}

function nodeKeepsThem(): boolean {
  const request = { method: 'GET', httpVersionMajor: 1, httpVersionMinor: 1 } as IncomingMessage
  const socket: HttpSocket = new Socket()
  try {
    const response = new ServerResponse(request)
    response.assignSocket(socket)
    if (socket._httpMessage !== response) return false
    response.detachSocket(socket)
    return !socket._httpMessage
  } catch {
    return false // a Node with other insides
  } finally {
    socket.destroy()
  }
}

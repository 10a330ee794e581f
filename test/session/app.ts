import { once } from 'node:events'
import http, { type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type createContext, createContext as open } from '../../src/context.ts'
import {
  createSession,
  type SessionMiddleware,
  type SessionOptions,
  type SharedSession,
} from '../../src/session/index.ts'
import { track } from '../helpers/cleanup.ts'

export type Context = ReturnType<typeof createContext>

/** Sessions in tests have whatever fields the test wants. */
export type AnySession = SharedSession & Record<string, unknown>

export interface Request extends IncomingMessage {
  session: AnySession
  sessionID: string
  sessionStore: import('express-session').Store
}

export type Handler = (req: Request, res: ServerResponse) => unknown

/** What one worker has: connections of its own. Closed when the test (or else the file) ends. */
export function worker(redis: string, namespace: string): Context {
  const ctx = open({ redis, namespace })
  track({ [Symbol.asyncDispose]: () => ctx.closing.close() })
  return ctx
}

/** An HTTP server on a random port; resolves to its URL. */
export async function serve(listener: RequestListener): Promise<string> {
  const server = http.createServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  track({
    async [Symbol.asyncDispose]() {
      server.close()
      server.closeAllConnections()
    },
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** The middleware in front of a handler, as plain `node:http`; errors become `status: message`. */
export function listener(middleware: SessionMiddleware, handler: Handler, before?: Handler): RequestListener {
  return (req, res) => {
    before?.(req as Request, res)
    middleware(req, res, (error) => {
      if (error) return fail(res, error)
      try {
        Promise.resolve(handler(req as Request, res)).catch((thrown) => fail(res, thrown))
      } catch (thrown) {
        fail(res, thrown)
      }
    })
  }
}

export interface Failure extends Error {
  status?: number
  code?: string
}

function fail(res: ServerResponse, error: unknown): void {
  const { status = 500, code = '', message } = error as Failure
  if (res.headersSent) {
    res.destroy()
    return
  }
  res.statusCode = status
  res.end(`${code} ${message}`)
}

/** A worker with our middleware in front of a handler. */
export function app(
  ctx: Context,
  options: Partial<SessionOptions>,
  handler: Handler,
  before?: Handler,
): Promise<string> {
  return serve(listener(createSession(ctx, { secret: 'keyboard cat', ...options }), handler, before))
}

/** Counts what a worker's connection sends, `hgetall` and so on; the connection must be open. */
export async function countCommands(ctx: Context): Promise<string[]> {
  const client = await ctx.redis.ready()
  const sent: string[] = []
  const send = client.sendCommand
  client.sendCommand = function (this: typeof client, command: Parameters<typeof send>[0], ...rest: never[]) {
    sent.push(command.name)
    return send.call(this, command, ...rest)
  } as typeof send
  return sent
}

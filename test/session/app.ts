import { once } from 'node:events'
import http, { type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import expressSession from 'express-session'
import { expect } from 'vitest'
import { type createContext, createContext as open } from '../../src/context.ts'
import { durationMs } from '../../src/core/duration.ts'
import {
  createSession,
  createStore,
  type SessionCookieOptions,
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

/** The Redis a suite runs on. */
export interface SuiteRedis {
  url: string
  namespace(): string
}

/** For tests of what Redis answers and not of how soon: on a busy machine that takes more than the default now and then. */
export const PATIENT = { timeout: '8s' } satisfies Partial<SessionOptions>

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

/** The same with express-session, and only the store of ours. */
export function throughStore(
  ctx: Context,
  options: Partial<SessionOptions>,
  handler: Handler,
  before?: Handler,
): Promise<string> {
  const { format, prefix, ttl, touchEvery, timeout, cookie, ...others } = options
  const ours = Object.entries({ format, prefix, ttl, touchEvery, timeout }).filter(
    ([, value]) => value !== undefined,
  )
  const plain = (made: SessionCookieOptions = {}): object =>
    made.maxAge === undefined ? made : { ...made, maxAge: made.maxAge && durationMs(made.maxAge) }
  const middleware = expressSession({
    secret: 'keyboard cat',
    name: 'sid',
    resave: false,
    saveUninitialized: false,
    ...(others as object),
    cookie: typeof cookie === 'function' ? (req) => plain(cookie(req)) : plain(cookie),
    store: createStore(ctx, Object.fromEntries(ours)),
  })
  return serve(listener(middleware as unknown as SessionMiddleware, handler, before))
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

/** The key names of all masters. */
export async function keysIn(ctx: Context, pattern: string): Promise<string[]> {
  const client = await ctx.redis.ready()
  const nodes = 'nodes' in client ? client.nodes('master') : [client]
  return (await Promise.all(nodes.map((node) => node.keys(pattern)))).flat()
}

/** Deletes them one by one, since they may lie on different masters. */
export async function deleteIn(ctx: Context, pattern: string): Promise<void> {
  const client = await ctx.redis.ready()
  await Promise.all((await keysIn(ctx, pattern)).map((key) => client.unlink(key)))
}

/** Remembers the namespaces it gives: nothing may lie there for ever. */
export function watched({
  url,
  namespace,
}: SuiteRedis): SuiteRedis & { expectTtls(ctx: Context): Promise<void> } {
  const given = new Set<string>()
  return {
    url,
    namespace() {
      const name = namespace()
      given.add(name)
      return name
    },
    async expectTtls(ctx) {
      const client = await ctx.redis.ready()
      for (const name of given) {
        for (const key of await keysIn(ctx, `${name}:*`)) expect(await client.pttl(key), key).not.toBe(-1)
      }
      given.clear()
    },
  }
}

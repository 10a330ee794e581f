import { once } from 'node:events'
import http, { type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createContext as open, type SharedContext } from '../../src/context.ts'
import { channels } from '../../src/core/channels.ts'
import type { RateLimitDecision, RateLimitMiddleware } from '../../src/rate-limit/index.ts'
import { track } from '../helpers/cleanup.ts'

/** What one worker has: connections of its own. Closed when the test (or else the file) ends. */
export function worker(redis: string, namespace: string): SharedContext {
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

/** The middleware in plain `node:http`: what passes is told the decision, errors become `status code: message`. */
export function app(...middlewares: RateLimitMiddleware[]): Promise<string> {
  return serve((req, res) => {
    const pass = (index: number): void => {
      const middleware = middlewares[index]
      if (!middleware) {
        res.end(JSON.stringify((req as { rateLimit?: RateLimitDecision }).rateLimit ?? null))
        return
      }
      middleware(req, res, (error) => {
        if (error === undefined) return pass(index + 1)
        const { status = 500, code, message } = error as { status?: number; code?: string; message: string }
        res.writeHead(status).end(`${code}: ${message}`)
      })
    }
    pass(0)
  })
}

/** What is published on `as-one:rate-limit` from now until the test (or else the file) ends. */
export function events(): Record<string, unknown>[] {
  const heard: Record<string, unknown>[] = []
  const listen = (message: unknown): void => void heard.push(message as Record<string, unknown>)
  channels['rate-limit'].subscribe(listen)
  track({ [Symbol.asyncDispose]: async () => void channels['rate-limit'].unsubscribe(listen) })
  return heard
}

/** Every key of a context with its PTTL, over all masters. */
export async function ttls(ctx: SharedContext): Promise<Map<string, number>> {
  const client = await ctx.redis.ready()
  const found = new Map<string, number>()
  for (const node of 'nodes' in client ? client.nodes('master') : [client]) {
    for (const key of await node.keys(`${ctx.keys.namespace}:*`)) found.set(key, await node.pttl(key))
  }
  return found
}

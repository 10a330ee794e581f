import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http'

type Connect = (req: IncomingMessage, res: ServerResponse, next: (error?: unknown) => void) => void

/** Koa middleware; the session is `ctx.req.session`, and `ctx.session` if nobody else has that. */
export type KoaMiddleware = (
  ctx: { req: IncomingMessage; res: ServerResponse; onerror(error: Error): void },
  next: () => Promise<unknown>,
) => Promise<void>

/** Koa waits for promises where Connect has one callback, which comes twice when a save fails after the handler. */
export function koaMiddleware(sessions: Connect): KoaMiddleware {
  return async (ctx, next) => {
    const { req, res } = ctx
    await new Promise<void>((resolve, reject) => {
      let began = false
      sessions(req, res, (error) => {
        if (began) return ctx.onerror(error as Error)
        began = true
        if (error) reject(error)
        else resolve()
      })
    })
    if (!('session' in ctx)) {
      Object.defineProperty(ctx, 'session', {
        get: () => (req as { session?: unknown }).session,
        set: (value: unknown) => Object.assign(req, { session: value }),
        configurable: true,
      })
    }
    await next()
  }
}

interface FastifyLike {
  hasRequestDecorator(name: string): boolean
  decorateRequest(name: string, property: { getter(): unknown; setter(value: unknown): void }): unknown
  addHook(
    name: 'onRequest',
    hook: (
      request: { raw: IncomingMessage },
      reply: { raw: ServerResponse },
      done: (error?: Error) => void,
    ) => void,
  ): unknown
}

/** A Fastify plugin; the session is `request.session`. */
export type FastifyPlugin = (fastify: FastifyLike, options: unknown, done: (error?: Error) => void) => void

export function fastifyPlugin(sessions: Connect): FastifyPlugin {
  const plugin: FastifyPlugin = (fastify, _options, done) => {
    if (!fastify.hasRequestDecorator('session')) {
      fastify.decorateRequest('session', {
        getter(this: { raw: { session?: unknown } }) {
          return this.raw.session
        },
        setter(this: { raw: { session?: unknown } }, value: unknown) {
          this.raw.session = value
        },
      } as never)
    }
    fastify.addHook('onRequest', ({ raw }, reply, next) => {
      let began = false
      sessions(raw, reply.raw, (error) => {
        if (began) return answer(reply.raw, error)
        began = true
        next(error as Error | undefined)
      })
    })
    done()
  }
  // For all routes, not only for those of an encapsulated context: what fastify-plugin does.
  return Object.assign(plugin, { [Symbol.for('skip-override')]: true })
}

/** A save that fails after Fastify has sent its reply, of which no byte has left: in the form of Fastify's own errors. */
function answer(res: ServerResponse, error: unknown): void {
  if (res.headersSent) {
    res.destroy(error as Error)
    return
  }
  const { statusCode } = res
  const { code, message } = error as { code?: string; message?: string }
  res.setHeader('Content-Type', 'application/json; charset=utf-8')
  res.end(JSON.stringify({ statusCode, code, error: STATUS_CODES[statusCode], message }))
}

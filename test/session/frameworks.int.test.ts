import { once } from 'node:events'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import Fastify from 'fastify'
// @ts-expect-error: koa has no types of its own
import Koa from 'koa'
import { expect, test } from 'vitest'
import { createSession, type SessionMiddleware } from '../../src/session/index.ts'
import { track } from '../helpers/cleanup.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { startRedis, testNamespace } from '../helpers/redis.ts'
import { type AnySession, worker } from './app.ts'

type Touch = (session: AnySession, path: string) => Promise<unknown>

const frameworks: Record<string, (sessions: SessionMiddleware, touch: Touch) => Promise<string>> = {
  async fastify(sessions, touch) {
    const app = Fastify()
    track({ [Symbol.asyncDispose]: () => app.close() })
    await app.register(sessions.fastify)
    app.get('/*', async (request) =>
      touch((request as unknown as { session: AnySession }).session, request.url),
    )
    return app.listen({ port: 0, host: '127.0.0.1' })
  },
  async koa(sessions, touch) {
    const app = new Koa()
    app.silent = true
    app.use(sessions.koa as never)
    app.use(async (ctx: { body: unknown; path: string }) => {
      ctx.body = await touch((ctx as never as { session: AnySession }).session, ctx.path)
    })
    const server: Server = app.listen(0, '127.0.0.1')
    await once(server, 'listening')
    track({ [Symbol.asyncDispose]: async () => void server.close() })
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  },
}

for (const [name, open] of Object.entries(frameworks)) {
  test(`${name}: one session over two workers; a login; a save that fails is a 503, and no request hangs`, async () => {
    const redis = await startRedis()
    const namespace = testNamespace()
    const make = async () => {
      const sessions = createSession(worker(redis.url, namespace), { secret: 'keyboard cat' })
      return open(sessions, async (session, path) => {
        if (path === '/freeze') await redis.pause()
        if (path === '/logout') await new Promise((resolve) => session.destroy(resolve))
        else session.n = Number(session.n ?? 0) + 1
        return { n: session.n }
      })
    }
    const urls = [await make(), await make()]
    const jar = new CookieJar()
    for (let i = 0; i < 4; i++) expect((await get(`${urls[i % 2]}/`, { jar })).json()).toEqual({ n: i + 1 })
    const failed = await get(`${urls[0]}/freeze`, { jar })
    expect([failed.status, failed.headers['set-cookie']]).toEqual([503, undefined])
    expect((await get(`${urls[0]}/`, { jar })).status).toBe(503)
    await redis.resume()
    expect((await get(`${urls[1]}/logout`, { jar })).status).toBe(200)
    expect((await get(`${urls[1]}/`, { jar })).json()).toEqual({ n: 1 })
  })
}

import http, {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from 'node:http'
import { createServer as createHttp2Server, createSecureServer } from 'node:http2'
import https from 'node:https'
import { createRequire } from 'node:module'
import net, { type AddressInfo } from 'node:net'
import express from 'express'
import Fastify from 'fastify'
import { Hono } from 'hono'
import { describe, expect, expectTypeOf, test } from 'vitest'
import { type App, checkApp, checkNotListening, type LoadedApp, loadApp } from '../../src/cluster/app.ts'
import { track } from '../helpers/cleanup.ts'
import { get } from '../helpers/http.ts'

/** Koa 3 comes without types. */
interface KoaApp {
  use(middleware: (context: { body: unknown }) => void): KoaApp
  callback(): RequestListener
}
const Koa = createRequire(import.meta.url)('koa') as new () => KoaApp

const express4 = createRequire(import.meta.url)('express4') as typeof express

const hello: RequestListener = (_req, res) => void res.end('hello')

async function answerOf({ server }: LoadedApp): Promise<string> {
  track({ [Symbol.asyncDispose]: async () => void server.close() })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return (await get(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)).body
}

/** As `import()` gives it. */
const moduleOf = (exports: object): object =>
  Object.assign(Object.create(null, { [Symbol.toStringTag]: { value: 'Module' } }), exports)

function expressApp(): express.Express {
  return express().get('/', (_req, res) => void res.send('hello'))
}

function koaApp(): KoaApp {
  return new Koa().use((ctx) => {
    ctx.body = 'hello'
  })
}

function fastifyApp(): object {
  return Fastify().get('/', async () => 'hello')
}

function honoApp(): Hono {
  return new Hono().get('/', (c) => c.text('hello'))
}

async function nestApp(): Promise<object> {
  await import('reflect-metadata')
  const { Module } = await import('@nestjs/common')
  const { NestFactory } = await import('@nestjs/core')
  class AppModule {}
  Module({})(AppModule)
  const app = await NestFactory.create(AppModule, { logger: false })
  app.use((_req: unknown, res: { end(text: string): void }) => res.end('hello'))
  return app
}

/** A Nest app answers to every name, Koa's among them. */
function nestLike(): { app: object; calls: string[] } {
  const calls: string[] = []
  const server = createServer(hello)
  const own: Record<string, unknown> = {
    init: async () => void calls.push('init'),
    getHttpServer: () => server,
    close: async () => void calls.push('close'),
    middleware: [],
  }
  const app = new Proxy(own, {
    get: (target, name) => (name === 'then' ? undefined : (target[String(name)] ?? (() => {}))),
    has: () => true,
  })
  return { app, calls }
}

describe('what is an app', () => {
  test.each<[string, () => unknown]>([
    ['a listener', () => hello],
    [
      'a listener with next',
      () => (req: http.IncomingMessage, res: http.ServerResponse, _next: unknown) => hello(req, res),
    ],
    ['Express 5', expressApp],
    ['Express 4', () => express4().get('/', (_req, res) => void res.send('hello'))],
    ['a factory of Nest', () => nestApp],
    ['Koa', koaApp],
    ["Koa's callback", () => koaApp().callback()],
    ['Fastify', fastifyApp],
    ['Hono', honoApp],
    ['a http server', () => createServer(hello)],
    ['Nest', () => nestLike().app],
    ['a module with a default export', () => moduleOf({ default: hello })],
    ['CommonJS compiled from ESM', () => moduleOf({ default: { __esModule: true, default: hello } })],
    ['a module that also exports fetch', () => moduleOf({ default: hello, fetch: () => {} })],
    [
      'a module that also exports ready and server',
      () => moduleOf({ default: hello, ready: () => {}, server: undefined }),
    ],
    ['a factory', () => () => hello],
    ['a factory of Express', () => expressApp],
    ['an async factory', () => async () => hello],
    ['a factory of a module', () => async () => moduleOf({ default: koaApp() })],
    ['a factory of Fastify', () => async () => fastifyApp()],
    [
      'a factory with rest parameters',
      () =>
        (..._args: unknown[]) =>
          hello,
    ],
  ])('%s', async (_name, make) => {
    const app = make()
    checkApp(app)
    expect(await answerOf(await loadApp(app))).toBe('hello')
  })

  test('servers of any kind are taken as they are', async () => {
    for (const server of [
      net.createServer(),
      createServer(),
      https.createServer(),
      createHttp2Server(),
      createSecureServer(),
    ]) {
      checkApp(server)
      expect((await loadApp(server)).server).toBe(server)
      expect((await loadApp(() => server)).server).toBe(server)
    }
  })

  test('a framework that wants to close something is asked to', async () => {
    const { app, calls } = nestLike()
    const { close } = await loadApp(app)
    expect(calls).toEqual(['init'])
    await close?.()
    expect(calls).toEqual(['init', 'close'])
    const closed = Fastify()
    let hooks = 0
    closed.addHook('onClose', async () => {
      hooks += 1
    })
    await (await loadApp(closed)).close?.()
    expect(hooks).toBe(1)
    expect((await loadApp(hello)).close).toBeUndefined()
  })
})

test('a listener that is written in place has its types, and those of frameworks are apps', () => {
  const listener: App = (req, res, next) => {
    expectTypeOf(req).toEqualTypeOf<IncomingMessage>()
    expectTypeOf(res).toEqualTypeOf<ServerResponse>()
    expectTypeOf(next).toBeCallableWith(new Error())
  }
  const handler = (_req: express.Request, res: express.Response): unknown => res.json(1)
  const apps: App[] = [
    listener,
    handler,
    express(),
    Fastify(),
    createServer(),
    () => import('./start-cluster.ts'),
  ]
  expect(apps).toHaveLength(6)
  // @ts-expect-error no app
  const none: App = 'app.js'
  expect(none).toBe('app.js')
})

describe('what is none', () => {
  const refused = (message: RegExp) =>
    expect.objectContaining({ code: 'ERR_AS_ONE_APP', message: expect.stringMatching(message) })

  test.each<[string, unknown, RegExp]>([
    ['(req) =>', (_req: unknown) => {}, /one parameter .*second parameter, or remove the first/],
    ['four parameters', (_a: 1, _b: 2, _c: 3, _d: 4) => {}, /4 parameters/],
    ['undefined', undefined, /got undefined/],
    ['a string', './app.js', /got '\.\/app\.js'/],
    ['an object', { listen: true }, /got an object/],
  ])('%s is refused before anything starts', async (_name, app, message) => {
    expect(() => checkApp(app)).toThrow(refused(message))
    await expect(loadApp(app)).rejects.toEqual(refused(message))
  })

  test.each<[string, () => unknown, RegExp]>([
    ['nothing', () => undefined, /called as a factory, and it returned undefined/],
    ['(req) =>', () => (_req: unknown) => {}, /called as a factory, and it returned a function/],
    ['another factory', () => () => hello, /called as a factory, and it returned a function/],
    ['a string', () => 'app', /returned 'app'/],
    [
      'a module without default',
      async () => moduleOf({ app: hello }),
      /returned a module without a default export/,
    ],
    ['a module of a string', async () => moduleOf({ default: 'app' }), /returned 'app'/],
  ])('a factory that returns %s says how it was read', async (_name, factory, message) => {
    checkApp(factory)
    await expect(loadApp(factory)).rejects.toEqual(refused(message))
  })

  test('what a factory throws is passed on', async () => {
    const error = new Error('no database')
    await expect(
      loadApp(() => {
        throw error
      }),
    ).rejects.toBe(error)
    await expect(loadApp(async () => Promise.reject(error))).rejects.toBe(error)
  })

  test('an app that nobody can start is named, with its default export', async () => {
    await expect(loadApp({ default: 3 })).rejects.toEqual(refused(/got an object/))
  })

  test('a server that listens already would hold the port of the workers', async () => {
    const server = createServer(hello)
    checkNotListening(server)
    await new Promise<void>((resolve) => server.listen(0, resolve))
    track({ [Symbol.asyncDispose]: async () => void server.close() })
    expect(() => checkNotListening(server)).toThrow(
      refused(/listens already.*leave listen\(\) to runCluster/),
    )
  })
})

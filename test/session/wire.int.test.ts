import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { gunzipSync } from 'node:zlib'
// @ts-expect-error: compression has no types of its own
import compression from 'compression'
import { RedisStore } from 'connect-redis'
import express, { type RequestHandler, type Response } from 'express'
import expressSession from 'express-session'
import { beforeEach, expect, test } from 'vitest'
import { createSession, type SessionOptions } from '../../src/session/index.ts'
import { tempDir, track } from '../helpers/cleanup.ts'
import { CookieJar, get } from '../helpers/http.ts'
import { type PrivateRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { startProxy, type TcpProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { PATIENT, type Request, serve, worker } from './app.ts'

/** What Redis' answers take on their way here. */
const DELAY_MS = 300
/** Longer than a busy machine's pauses, which would make an early byte a late one. */
const LONG_DELAY_MS = 2_000

const body = 'x'.repeat(2_000)
const large = body.repeat(200)

interface Shape {
  answer(res: Response, next: (error: unknown) => void): unknown
  status: number
  /** undefined: does not matter. */
  body?: string
  method?: string
}

const file = join(tempDir(), 'large.txt')
writeFileSync(file, large)

const shapes: Record<string, Shape> = {
  end: { answer: (res) => res.end(body), status: 200, body },
  write: {
    answer: (res) => {
      res.write(body)
      res.write(body)
      res.end(body)
    },
    status: 200,
    body: body.repeat(3),
  },
  json: { answer: (res) => res.json({ body }), status: 200, body: JSON.stringify({ body }) },
  pipe: { answer: (res) => Readable.from([large, body]).pipe(res), status: 200, body: large + body },
  sendFile: { answer: (res) => res.sendFile(file), status: 200, body: large },
  redirect: { answer: (res) => res.redirect('/elsewhere'), status: 302 },
  writeHead: { answer: (res) => res.writeHead(201, { 'X-A': '1' }).end(body), status: 201, body },
  flushHeaders: {
    answer: (res) => {
      res.flushHeaders()
      res.end(body)
    },
    status: 200,
    body,
  },
  'server-sent events': {
    answer: (res) => {
      res.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' })
      res.write(`data: ${body}\n\n`)
      ;(res as { flush?: () => void }).flush?.()
      setImmediate(() => res.end('data: end\n\n'))
    },
    status: 200,
    body: `data: ${body}\n\ndata: end\n\n`,
  },
  HEAD: { answer: (res) => res.send(body), status: 200, body: '', method: 'HEAD' },
  'no content': { answer: (res) => res.sendStatus(204), status: 204, body: '' },
  'not modified': { answer: (res) => res.status(304).end(), status: 304, body: '' },
  'an error thrown': {
    answer: () => {
      throw Object.assign(new Error('on purpose'), { status: 418 })
    },
    status: 418,
  },
  'an error passed on': {
    answer: (_res, next) => next(Object.assign(new Error('on purpose'), { status: 404 })),
    status: 404,
  },
}

type Order = 'no compression' | 'compression before' | 'compression after'
const orders: Order[] = ['no compression', 'compression before', 'compression after']

let redis: PrivateRedis
let proxy: TcpProxy

beforeEach(async () => {
  redis = await startRedis()
  proxy = await startProxy({ target: { port: redis.port } })
})

interface Site {
  url: string
  /** When each handler began to answer, by shape. */
  readonly answered: Map<string, number>
  /** Handlers wait for it; asks for it when they have all come. */
  gate?: Promise<unknown>
  arrived: number
}

async function site(sessions: RequestHandler, order: Order): Promise<Site> {
  const made: Site = { url: '', answered: new Map(), arrived: 0 }
  const app = express()
  app.set('env', 'test') // its own error handler would print
  const compress = compression({ threshold: 0 }) as RequestHandler
  if (order === 'compression before') app.use(compress)
  app.use(sessions)
  if (order === 'compression after') app.use(compress)
  app.use(async (req, res, next) => {
    const name = decodeURIComponent(req.path.slice(1))
    const { session } = req as unknown as Request
    if (name === 'start') {
      session.n = 1
      return void res.end()
    }
    made.arrived++
    await made.gate
    session.n = Number(session.n) + 1
    made.answered.set(name, performance.now())
    res.type('text/plain') // or compression leaves it alone
    shapes[name]?.answer(res, next)
  })
  made.url = await serve(app)
  return made
}

const ours = async (options: Partial<SessionOptions> = {}): Promise<RequestHandler> => {
  const ctx = worker(proxy.url(), testNamespace())
  await ctx.redis.ready()
  return createSession(ctx, { secret: 'keyboard cat', ...options }) as unknown as RequestHandler
}

const theirs = async (): Promise<RequestHandler> => {
  const client = redis.client({ port: proxy.port })
  await client.ping()
  const store = new RedisStore({ client, prefix: `${testNamespace()}:` })
  const options = { secret: 'keyboard cat', name: 'sid', resave: false, saveUninitialized: false }
  return expressSession({ ...options, store })
}

interface Wire {
  firstByteAt: number
  text: string
}

/** What a client without any cleverness sees, for every shape at the same time, each with a session of its own. */
async function ask({ url }: Site): Promise<{ jars: CookieJar[]; wires(): Promise<Map<string, Wire>> }> {
  const names = Object.keys(shapes)
  const jars = await Promise.all(
    names.map(async () => {
      const jar = new CookieJar()
      await get(`${url}/start`, { jar })
      return jar
    }),
  )
  return {
    jars,
    async wires() {
      const all = names.map(async (name, index): Promise<[string, Wire]> => {
        const socket = connect(Number(new URL(url).port), '127.0.0.1')
        track({ [Symbol.asyncDispose]: async () => void socket.destroy() })
        const wire: Wire = { firstByteAt: Number.POSITIVE_INFINITY, text: '' }
        socket.setEncoding('latin1').on('data', (chunk: string) => {
          wire.firstByteAt = Math.min(wire.firstByteAt, performance.now())
          wire.text += chunk
        })
        socket.on('error', () => {}) // 'close' follows
        const line = `${shapes[name]?.method ?? 'GET'} /${encodeURIComponent(name)} HTTP/1.1`
        const cookie = `Cookie: ${jars[index]?.header()}`
        socket.write(`${line}\r\nHost: a\r\nConnection: close\r\nAccept-Encoding: gzip\r\n${cookie}\r\n\r\n`)
        await once(socket, 'close')
        return [name, wire]
      })
      return new Map(await Promise.all(all))
    },
  }
}

function bodyOf(text: string): string {
  const [head = '', ...rest] = text.split('\r\n\r\n')
  let body = rest.join('\r\n\r\n')
  if (/transfer-encoding: chunked/i.test(head)) body = unchunked(body)
  return /content-encoding: gzip/i.test(head) && body !== ''
    ? gunzipSync(Buffer.from(body, 'latin1')).toString()
    : body
}

function unchunked(text: string): string {
  let body = ''
  for (let rest = text; rest !== ''; ) {
    const [line = '0'] = rest.split('\r\n', 1)
    const size = Number.parseInt(line, 16)
    if (size === 0) break
    body += rest.slice(line.length + 2, line.length + 2 + size)
    rest = rest.slice(line.length + 4 + size)
  }
  return body
}

const stored = async (): Promise<number[]> => {
  const client = redis.client()
  const all = await client.keys('*:s:*')
  return Promise.all(all.map(async (key) => Number(await client.hget(key, 'n'))))
}

for (const order of orders) {
  test(`${order}: with Redis 300 ms away no answer has a byte on the wire before its session is saved`, async () => {
    const each = await site(await ours(PATIENT), order)
    const { wires } = await ask(each)
    proxy.delay(DELAY_MS, 0, 'down')
    for (const [name, { firstByteAt, text }] of await wires()) {
      const { status, body } = shapes[name] as Shape
      expect(text, name).toMatch(new RegExp(`^HTTP/1.1 ${status} `))
      // The answer to the save cannot have been here any earlier.
      expect(firstByteAt - (each.answered.get(name) ?? 0), name).toBeGreaterThanOrEqual(DELAY_MS - 2)
      if (body !== undefined) expect(bodyOf(text), name).toBe(body)
      if (order !== 'no compression' && body) expect(text, name).toMatch(/content-encoding: gzip/i)
    }
    expect(await stored()).toEqual(Object.keys(shapes).map(() => 2))
  })

  test(`${order}: a save without an answer is a 503 in every shape, without a cookie or a byte of the answer`, async () => {
    const each = await site(await ours(), order)
    let open: (value?: unknown) => void = () => {}
    const { wires } = await ask(each)
    each.gate = new Promise((resolve) => {
      open = resolve
    })
    const answers = wires()
    await until(() => each.arrived === Object.keys(shapes).length, { what: 'all to have loaded' })
    proxy.freeze()
    open()
    for (const [name, { text }] of await answers) {
      expect(text, name).toMatch(/^HTTP\/1.1 503 Service Unavailable\r\n/)
      expect(text, name).not.toMatch(/set-cookie|location:|x{100}|on purpose/i)
    }
  })
}

test('the same with express-session and connect-redis: answers leave before they are saved, and 200 says nothing', async () => {
  const each = await site(await theirs(), 'no compression')
  const { wires } = await ask(each)
  proxy.delay(LONG_DELAY_MS, 0, 'down')
  const early = [...(await wires())].filter(
    ([name, { firstByteAt }]) => firstByteAt - (each.answered.get(name) ?? 0) < LONG_DELAY_MS - 50,
  )
  console.log(
    `first byte before the save, of ${Object.keys(shapes).length} shapes: ours 0, express-session ${early.length}: ${early.map(([name]) => name).join(', ')}`,
  )
  expect(early.length).toBeGreaterThan(Object.keys(shapes).length / 2)

  proxy.delay(0)
  const failing = await ask(each)
  // Redis takes no writes: the saves fail.
  await redis.client().config('SET', 'min-replicas-to-write', '3')
  const answers = [...(await failing.wires()).values()].map(({ text }) => text.slice(9, 12))
  console.log(`answers to failed saves: ours 503, express-session ${answers.join(' ')}`)
  expect(answers.filter((status) => status === '200').length).toBeGreaterThan(4)
})

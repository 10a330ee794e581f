import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { describe, expect, test } from 'vitest'
import { type Commit, holdResponse } from '../../src/session/commit.ts'
import { track } from '../helpers/cleanup.ts'
import { get } from '../helpers/http.ts'
import { until } from '../helpers/until.ts'
import { serve } from './app.ts'

type Shape = (res: ServerResponse) => unknown

/** A response whose session is saved when the test says so. */
interface Gate {
  saves: number
  /** Of the save that waits now. */
  finish(error?: Error): void
}

interface HeldOptions {
  mode?: 'before-headers' | 'after'
  /** Whether a save has something to wait for, by its number. */
  waits?: (save: number) => boolean
  setCookie?: () => string | undefined
  before?: Shape
  onFail?: (res: ServerResponse, error: unknown) => void
}

async function held(shape: Shape, options: HeldOptions = {}): Promise<{ url: string; gate: Gate }> {
  const { mode = 'before-headers', waits = (save) => save === 1, before } = options
  const gate: Gate = { saves: 0, finish: () => {} }
  const url = await serve((_req, res) => {
    const commit: Commit = {
      save(done) {
        if (!waits(++gate.saves)) return false
        gate.finish = done
        return true
      },
      setCookie: options.setCookie ?? (() => 'sid=1'),
      fail(error) {
        if (options.onFail) options.onFail(res, error)
        else if (res.headersSent) res.destroy()
        else res.writeHead(503, { 'X-Error': (error as Error).message }).end('sorry')
      },
    }
    before?.(res)
    holdResponse(res, commit, mode)
    shape(res)
  })
  return { url, gate }
}

/** What the server has put on the wire so far, as a client without any cleverness sees it. */
async function rawGet(url: string, method = 'GET'): Promise<{ received(): string; ended: Promise<unknown> }> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  track({ [Symbol.asyncDispose]: async () => void socket.destroy() })
  let text = ''
  socket.setEncoding('latin1').on('data', (chunk: string) => {
    text += chunk
  })
  const ended = once(socket, 'close')
  await once(socket, 'connect')
  socket.write(`${method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`)
  return { received: () => text, ended }
}

const steps =
  (...all: Shape[]): Shape =>
  (res) => {
    for (const step of all) step(res)
  }

const big = 'x'.repeat(300_000)
const shapes: Record<string, { shape: Shape; status?: number; body?: string; method?: string }> = {
  'end(text)': { shape: (res) => res.end('body'), body: 'body' },
  'end()': { shape: (res) => res.end(), body: '' },
  'write and end': {
    shape: steps(
      (res) => res.write('bo'),
      (res) => res.end('dy'),
    ),
    body: 'body',
  },
  'writeHead and end': {
    shape: (res) => res.writeHead(201, { 'X-A': '1' }).end('body'),
    status: 201,
    body: 'body',
  },
  'writeHead and write': {
    shape: steps(
      (res) => res.writeHead(200),
      (res) => res.write('bo'),
      (res) => res.end('dy'),
    ),
    body: 'body',
  },
  'a redirect': { shape: (res) => res.writeHead(302, { Location: '/x' }).end(), status: 302, body: '' },
  'statusCode and setHeader': {
    shape: (res) => {
      res.statusCode = 202
      res.setHeader('X-A', '1').end('body')
    },
    status: 202,
    body: 'body',
  },
  flushHeaders: {
    shape: steps(
      (res) => res.flushHeaders(),
      (res) => res.end('body'),
    ),
    body: 'body',
  },
  'a pipe': { shape: (res) => Readable.from([big, big]).pipe(res), body: big + big },
  'a pipeline': {
    shape: (res) => void pipeline(Readable.from([big, 'end']), res).catch(() => {}),
    body: `${big}end`,
  },
  'no content': { shape: (res) => res.writeHead(204).end(), status: 204, body: '' },
  'not modified': { shape: (res) => res.writeHead(304).end(), status: 304, body: '' },
  HEAD: {
    shape: steps(
      (res) => res.setHeader('Content-Length', 4),
      (res) => res.end('body'),
    ),
    method: 'HEAD',
    body: '',
  },
}

describe('before headers', () => {
  for (const [name, { shape, status = 200, body, method }] of Object.entries(shapes)) {
    test(`${name}: no byte before the save, everything after it`, async () => {
      const { url, gate } = await held(shape)
      const { received, ended } = await rawGet(url, method)
      await until(() => gate.saves === 1, { what: 'the save to begin', every: 1 })
      for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate)
      expect(received()).toBe('')
      gate.finish()
      await ended
      const [head = '', ...rest] = received().split('\r\n\r\n')
      expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} [^]*Set-Cookie: sid=1(\r\n|$)`, 'i'))
      const chunked = /transfer-encoding: chunked/i.test(head)
      expect(chunked ? unchunked(rest.join('\r\n\r\n')) : rest.join('\r\n\r\n')).toBe(body)
    })

    test(`${name}: a failed save is a 503, without a cookie and without anything of the answer`, async () => {
      const { url, gate } = await held(shape)
      const { received, ended } = await rawGet(url, method)
      await until(() => gate.saves === 1, { what: 'the save to begin', every: 1 })
      gate.finish(Object.assign(new Error('no Redis'), { status: 503 }))
      await ended
      const [head = '', text] = received().split('\r\n\r\n')
      expect(head).toMatch(/^HTTP\/1.1 503 Service Unavailable\r\n/)
      expect(head).toContain('X-Error: no Redis')
      expect(head).not.toMatch(/set-cookie|location|x{100}/i)
      expect(text).toMatch(method === 'HEAD' ? /^$/ : /sorry/)
    })
  }

  test('a clean session sends at once', async () => {
    for (const { shape, status = 200, method } of Object.values(shapes)) {
      const { url, gate } = await held(shape, { waits: () => false })
      const { received, ended } = await rawGet(url, method)
      await ended
      expect(received()).toMatch(new RegExp(`^HTTP/1.1 ${status} [^]*Set-Cookie: sid=1`, 'i'))
      expect(gate.saves).toBeGreaterThan(0)
    }
  })

  test('meanwhile the response is as final as one that has been sent', async () => {
    const seen: unknown[] = []
    const { url, gate } = await held((res) => {
      res.setHeader('X-A', 'kept')
      res.statusCode = 201
      res.end('body')
      seen.push(res.headersSent, res.writableEnded)
      for (const change of [
        () => res.setHeader('X-B', '1'),
        () => res.appendHeader('X-B', '1'),
        () => res.removeHeader('X-A'),
        () => res.writeHead(500, { 'X-B': '1' }),
      ]) {
        try {
          change()
        } catch (error) {
          seen.push((error as NodeJS.ErrnoException).code)
        }
      }
      res.statusCode = 500
    })
    const reply = get(url)
    await until(() => seen.length === 6, { what: 'the handler to return', every: 1 })
    gate.finish()
    expect(await reply).toMatchObject({ status: 201, body: 'body', headers: { 'x-a': 'kept' } })
    expect(seen).toEqual([true, true, ...Array(4).fill('ERR_HTTP_HEADERS_SENT')])
  })

  test('write says false and drain follows; callbacks run after the save, in order', async () => {
    const events: string[] = []
    const { url, gate } = await held((res) => {
      events.push(String(res.write('a', () => events.push('a written'))))
      events.push(String(res.write(Buffer.from('b'), () => events.push('b written'))))
      res.once('drain', () => {
        events.push('drain')
        res.end('c', 'utf8', () => events.push('ended'))
      })
    })
    const reply = get(url)
    await until(() => events.length === 2, { what: 'the handler to return', every: 1 })
    for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate)
    expect(events).toEqual(['false', 'false'])
    gate.finish()
    expect((await reply).body).toBe('abc')
    await until(() => events.length === 6, { what: 'all callbacks' })
    expect(events).toEqual(['false', 'false', 'drain', 'a written', 'b written', 'ended'])
  })

  test('the callbacks of a dropped answer hear of the error', async () => {
    const heard: unknown[] = []
    const { url, gate } = await held((res) => {
      res.write('a', (error) => heard.push(error?.message))
      res.end('b', (error?: Error) => heard.push(error?.message))
    })
    const reply = get(url)
    await until(() => gate.saves === 1, { what: 'the save to begin', every: 1 })
    gate.finish(new Error('lost'))
    expect(await reply).toMatchObject({ status: 503, body: 'sorry' })
    expect(heard).toEqual(['lost', 'lost'])
  })

  test("headers of the answer go, those of earlier middleware stay for the error's answer", async () => {
    const { url, gate } = await held(
      (res) => {
        res.setHeader('Content-Type', 'image/png')
        res.setHeader('Cache-Control', 'public, max-age=3600')
        res.setHeader('ETag', '"1"')
        res.setHeader('Set-Cookie', 'remember=me')
        res.end('body')
      },
      {
        before: (res) =>
          void res
            .setHeader('Access-Control-Allow-Origin', '*')
            .setHeader('Content-Security-Policy', "default-src 'self'"),
      },
    )
    const reply = get(url)
    await until(() => gate.saves === 1, { what: 'the save to begin', every: 1 })
    gate.finish(new Error('lost'))
    const { headers } = await reply
    expect(headers).toMatchObject({
      'access-control-allow-origin': '*',
      'content-security-policy': "default-src 'self'",
    })
    expect(headers).not.toHaveProperty('content-type')
    expect(headers).not.toHaveProperty('cache-control')
    expect(headers).not.toHaveProperty('etag')
    expect(headers).not.toHaveProperty('set-cookie')
  })

  test('a producer that goes on after the failure cannot spoil the answer', async () => {
    let response: ServerResponse | undefined
    const { url, gate } = await held((res) => {
      response = res
      res.write('first')
    })
    const reply = get(url)
    await until(() => gate.saves === 1, { what: 'the save to begin', every: 1 })
    gate.finish(new Error('lost'))
    expect(await reply).toMatchObject({ status: 503, body: 'sorry' })
    expect(response?.write('more')).toBe(false)
    expect(response?.end('end')).toBe(response)
  })

  test("a wrapper put on after us that has ended its answer does not swallow the error's", async () => {
    for (const shape of ['end', 'write'] as const) {
      const { url, gate } = await held((res) => {
        // As compression does: its own idea of what has ended, and data that come when it likes.
        const { write, end } = res as unknown as Record<'write' | 'end', (...args: unknown[]) => unknown>
        let ended = false
        res.write = ((...args: unknown[]) => !ended && write.apply(res, args)) as typeof res.write
        res.end = (() => {
          if (ended) return false
          ended = true
          setTimeout(() => {
            write.call(res, 'of the old answer', () => {})
            end.call(res)
          }, 5)
          return write.call(res, 'begun', () => {})
        }) as never
        if (shape === 'write') res.write('early')
        res.end('body')
      })
      const reply = get(url)
      await until(() => gate.saves === 1, { what: 'the save to begin', every: 1 })
      gate.finish(new Error('lost'))
      expect(await reply, shape).toMatchObject({ status: 503, body: 'sorry' })
    }
  })

  test('what Node refuses is an error of the answer, not of the process', async () => {
    for (const shape of [
      (res: ServerResponse) => res.end(123 as never),
      (res: ServerResponse) => res.writeHead(200, { 'X-A': 'line\nbreak' }).end(),
      (res: ServerResponse) => res.writeHead(42).end(),
    ]) {
      const { url, gate } = await held(shape)
      const reply = get(url)
      await until(() => gate.saves === 1, { what: 'the save to begin', every: 1 })
      gate.finish()
      expect((await reply).status).toBe(503)
    }
  })

  test('changes made after the header left are saved before the end', async () => {
    const { url, gate } = await held(
      (res) => {
        res.write('early ')
        res.end('late')
      },
      { waits: (save) => save === 2 },
    )
    const { received, ended } = await rawGet(url)
    await until(() => gate.saves === 2 && received().includes('early'), { what: 'the second save', every: 1 })
    expect(received()).not.toContain('late')
    gate.finish()
    await ended
    expect(received()).toContain('late')
  })

  test('a save that throws, and a cookie that cannot be made, are errors of the answer', async () => {
    const broken = () => {
      throw new Error('broken')
    }
    for (const options of [{ waits: broken }, { waits: () => false, setCookie: broken }]) {
      const { url } = await held((res) => res.end('body'), options)
      expect(await get(url)).toMatchObject({ status: 503, headers: { 'x-error': 'broken' } })
    }
  })

  test('wrappers before and after us work: one that renders headers itself, one that sets headers at the last moment', async () => {
    const lateHeader: Shape = (res) => {
      const { writeHead } = res
      let asked = false
      res.writeHead = function (this: ServerResponse, ...args: unknown[]) {
        asked = true
        if (!this.headersSent) this.setHeader('X-Late', 'yes')
        return writeHead.apply(this, args as never)
      } as typeof writeHead
      const { write, end } = res
      // As compression does: asks for the header before each write while it sees none.
      res.write = function (this: ServerResponse, ...args: unknown[]) {
        if (!(this as unknown as { _header: unknown })._header) this.writeHead(this.statusCode)
        return write.apply(this, args as never)
      } as typeof write
      res.end = function (this: ServerResponse, ...args: unknown[]) {
        if (!this.headersSent) this.writeHead(this.statusCode)
        if (!asked) this.destroy() // it would now send a body that its header does not announce
        return end.apply(this, args as never)
      } as typeof end
    }
    const bodies: Shape[] = [
      steps(
        (res) => res.write('a'),
        (res) => res.write('b'),
        (res) => res.end('c'),
      ),
      steps(
        (res) => res.flushHeaders(),
        (res) => res.end('abc'),
      ),
    ]
    for (const [order, body] of (['before', 'after'] as const).flatMap((order) =>
      bodies.map((body) => [order, body] as const),
    )) {
      const shape: Shape = order === 'after' ? steps(lateHeader, body) : body
      const { url, gate } = await held(shape, order === 'before' ? { before: lateHeader } : {})
      const reply = get(url)
      await until(() => gate.saves === 1, { what: 'the save to begin', every: 1 })
      gate.finish()
      expect(await reply, order).toMatchObject({
        body: 'abc',
        headers: { 'x-late': 'yes', 'set-cookie': ['sid=1'] },
      })
    }
  })

  test('a client that has left does no harm', async () => {
    let response: ServerResponse | undefined
    const { url, gate } = await held((res) => {
      response = res
      res.end('body')
    })
    const socket = connect(Number(new URL(url).port), '127.0.0.1', () =>
      socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n'),
    )
    await until(() => gate.saves === 1, { what: 'the save to begin', every: 1 })
    socket.destroy()
    await until(() => response?.destroyed, { what: 'the server to see it' })
    gate.finish()
  })
})

describe('after', () => {
  test('the status is fixed first, the end waits, a failed save is only told', async () => {
    for (const error of [undefined, new Error('lost')]) {
      const failures: unknown[] = []
      const onFail = (_res: ServerResponse, failure: unknown) => failures.push(failure)
      const { url, gate } = await held(
        steps(
          (res) => res.write('early '),
          (res) => res.end('late'),
        ),
        {
          mode: 'after',
          onFail,
        },
      )
      const { received, ended } = await rawGet(url)
      await until(() => received().includes('early'), { what: 'the first part', every: 1 })
      expect(received()).not.toContain('late')
      gate.finish(error)
      await ended
      expect(received()).toMatch(/^HTTP\/1.1 200 OK.*Set-Cookie: sid=1.*late/s)
      await until(() => failures.length === (error ? 1 : 0), { what: 'the error to be told' })
    }
  })
})

test('a keep-alive connection goes on after held and failed answers', async () => {
  let fails = false
  const server = createServer((_req, res) => {
    const commit: Commit = {
      save(done) {
        setImmediate(done, fails ? new Error('lost') : undefined)
        return true
      },
      setCookie: () => undefined,
      fail: () => void res.writeHead(503).end(),
    }
    holdResponse(res, commit, 'before-headers')
    res.end('body')
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  track({ [Symbol.asyncDispose]: async () => void server.close().closeAllConnections() })
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1').setEncoding('latin1')
  track({ [Symbol.asyncDispose]: async () => void socket.destroy() })
  let text = ''
  socket.on('data', (chunk: string) => {
    text += chunk
  })
  const replies = () => text.match(/HTTP\/1.1 (\d+)/g)?.map((line) => line.slice(-3))
  for (const [index, each] of [false, true, false].entries()) {
    fails = each
    socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await until(() => replies()?.length === index + 1, { what: `reply ${index + 1}`, every: 1 })
  }
  expect(replies()).toEqual(['200', '503', '200'])
})

function unchunked(text: string): string {
  let body = ''
  for (let rest = text; ; ) {
    const [line = '0'] = rest.split('\r\n', 1)
    const size = Number.parseInt(line, 16)
    if (size === 0) return body
    body += rest.slice(line.length + 2, line.length + 2 + size)
    rest = rest.slice(line.length + 4 + size)
  }
}

test('a response held twice, by two session middlewares: each commits and each sends its cookie', async () => {
  for (const shape of [(res) => res.end('done'), (res) => res.writeHead(200).end('done')] as Shape[]) {
    const finish: (() => void)[] = []
    const url = await serve((_req, res) => {
      for (const name of ['outer', 'inner']) {
        const commit: Commit = {
          save(done) {
            finish.push(done)
            return true
          },
          setCookie: () => `${name}=1`,
          fail: () => {},
        }
        holdResponse(res, commit, 'before-headers')
      }
      shape(res)
    })
    const reply = get(url)
    for (let i = 0; i < 2; i++) {
      await until(() => finish.length === i + 1, { what: 'the next commit' })
      finish[i]?.()
    }
    const { body, headers } = await reply
    expect([body, headers['set-cookie']?.sort()]).toEqual(['done', ['inner=1', 'outer=1']])
  }
})

import { once } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import https from 'node:https'
import net, { type AddressInfo, type Socket } from 'node:net'
import Fastify from 'fastify'
import { expect, test } from 'vitest'
import { loadApp } from '../../src/cluster/app.ts'
import { type Connections, trackConnections } from '../../src/cluster/connections.ts'
import { drain } from '../../src/cluster/drain.ts'
import { track } from '../helpers/cleanup.ts'
import { get, keepAliveAgent, request } from '../helpers/http.ts'
import { until } from '../helpers/until.ts'

/** Sees every server of this process until the test ends. */
function tracked(): Connections {
  const connections = trackConnections()
  track({ [Symbol.asyncDispose]: async () => connections.untrack() })
  return connections
}

async function serverOf(listener: RequestListener): Promise<{ server: Server; url: string; port: number }> {
  const server = createServer(listener)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  track({
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
    },
  })
  const { port } = server.address() as AddressInfo
  return { server, url: `http://127.0.0.1:${port}/`, port }
}

const quick = { delayMs: 0, lingerMs: 100, timeoutMs: 5_000 }

function rawClient(port: number): { socket: Socket; text(): string; closed: Promise<unknown> } {
  const socket = net.connect(port, '127.0.0.1')
  let text = ''
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  track({ [Symbol.asyncDispose]: async () => void socket.destroy() })
  return { socket, text: () => text, closed: once(socket, 'close') }
}

test('requests in flight are answered in full, and told to use another connection', async () => {
  const connections = tracked()
  let release = (): void => {}
  const released = new Promise<void>((resolve) => {
    release = resolve
  })
  let inFlight = 0
  const { url } = await serverOf(async (req, res) => {
    inFlight += 1
    if (req.method === 'POST') {
      let size = 0
      for await (const chunk of req) size += (chunk as Buffer).length
      await released
      res.end(`${size}`)
    } else {
      res.write('begun ')
      await released
      res.end('done')
    }
  })
  const streamed = get(url)
  const posted = request(url, { body: Buffer.alloc(100_000) })
  await until(() => inFlight === 2, { what: 'both requests to be in flight' })
  const draining = drain(connections, quick, [])
  await expect(get(url)).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  release()
  expect((await streamed).body).toBe('begun done')
  const reply = await posted
  expect([reply.body, reply.headers.connection]).toEqual(['100000', 'close'])
  expect(await draining).toBe(0)
})

test('idle connections stay open for the linger, and a request on one is still answered', async () => {
  const connections = tracked()
  const { url, port } = await serverOf((_req, res) => void res.end('ok'))
  const agent = keepAliveAgent()
  expect((await get(url, { agent })).headers.connection).toBe('keep-alive')
  const silent = rawClient(port)
  await once(silent.socket, 'connect')
  await get(url, { agent }) // the silent one has been accepted by now too

  const startedAt = performance.now()
  const draining = drain(connections, { ...quick, lingerMs: 600 }, [])
  const reply = await get(url, { agent })
  expect([reply.body, reply.headers.connection]).toEqual(['ok', 'close'])
  await silent.closed
  expect(performance.now() - startedAt).toBeGreaterThan(550)
  expect(await draining).toBe(0)
})

test('a connection that finishes its last kept-alive response after the linger is closed then', async () => {
  const connections = tracked()
  let begun = false
  const { url } = await serverOf((_req, res) => {
    res.writeHead(200, { 'content-length': '4' }) // the headers are out before the drain: keep-alive it says
    res.write('ab')
    begun = true
    setTimeout(() => res.end('cd'), 400)
  })
  const replying = get(url, { agent: keepAliveAgent() })
  await until(() => begun, { what: 'the response to have begun' })
  const draining = drain(connections, quick, [])
  expect((await replying).body).toBe('abcd')
  const startedAt = performance.now()
  expect(await draining).toBe(0)
  expect(performance.now() - startedAt).toBeLessThan(4_000) // not at its deadline
})

test('event streams are ended in an orderly way', async () => {
  const connections = tracked()
  let open = false
  const { url } = await serverOf((_req, res) => {
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    res.write('data: 1\n\n')
    open = true
  })
  const stream = get(url) // rejects if it were cut
  await until(() => open, { what: 'the stream to be open' })
  expect(await drain(connections, quick, [])).toBe(0)
  expect((await stream).body).toBe('data: 1\n\n')
})

test('what does not end is cut at the deadline, and counted', async () => {
  const connections = tracked()
  let inFlight = 0
  const { url } = await serverOf(() => {
    inFlight += 1
  })
  const replies = Promise.allSettled([get(url), get(url)])
  await until(() => inFlight === 2, { what: 'both requests to be in flight' })
  const startedAt = performance.now()
  expect(await drain(connections, { delayMs: 0, lingerMs: 50, timeoutMs: 500 }, [])).toBe(2)
  const took = performance.now() - startedAt
  expect(took).toBeGreaterThan(400)
  expect(took).toBeLessThan(5_000)
  expect((await replies).map(({ status }) => status)).toEqual(['rejected', 'rejected'])
})

test('during the delay new connections are still taken', async () => {
  const connections = tracked()
  const { url } = await serverOf((_req, res) => void res.end('ok'))
  const draining = drain(connections, { delayMs: 1_500, lingerMs: 50, timeoutMs: 5_000 }, [])
  const reply = await get(url, { agent: keepAliveAgent() })
  expect([reply.body, reply.headers.connection]).toEqual(['ok', 'close'])
  await draining
  await expect(get(url)).rejects.toMatchObject({ code: 'ECONNREFUSED' })
})

test('HTTPS: idle connections are closed after the linger, requests in flight answered', async () => {
  const connections = tracked()
  const key = Buffer.from('shared by both ends, so that no certificate is needed')
  let inFlight = 0
  const server = https.createServer({ pskCallback: () => key, ciphers: 'PSK' }, (_req, res) => {
    inFlight += 1
    setTimeout(() => res.end('secret'), 300)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const agent = new https.Agent({
    keepAlive: true,
    ciphers: 'PSK',
    pskCallback: () => ({ psk: key, identity: 'test' }),
    checkServerIdentity: () => undefined,
  })
  track({ [Symbol.asyncDispose]: async () => agent.destroy() })
  const ask = (): Promise<string> =>
    new Promise((resolve, reject) => {
      https
        .get({ port, host: '127.0.0.1', agent }, (res) => {
          let text = ''
          res.on('data', (chunk) => {
            text += chunk
          })
          res.on('end', () => resolve(text))
        })
        .on('error', reject)
    })
  expect(await ask()).toBe('secret')
  const second = ask()
  const third = ask()
  await until(() => inFlight === 3, { what: 'both requests to be in flight' })
  const startedAt = performance.now()
  expect(await drain(connections, quick, [])).toBe(0)
  expect([await second, await third]).toEqual(['secret', 'secret'])
  expect(performance.now() - startedAt).toBeLessThan(3_000)
})

test('a connection that speaks another protocol is not cut while it talks', async () => {
  const connections = tracked()
  const server = net.createServer((socket) => {
    socket.on('error', () => {})
    socket.write('hello ')
    setTimeout(() => socket.end('and goodbye'), 900)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = rawClient((server.address() as AddressInfo).port)
  await once(client.socket, 'data')
  expect(await drain(connections, quick, [])).toBe(0)
  await client.closed
  expect(client.text()).toBe('hello and goodbye')
})

test('Fastify is closed after the drain without a complaint', async () => {
  const connections = tracked()
  const { server, close } = await loadApp(Fastify().get('/', async () => 'ok'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  expect((await get(url, { agent: keepAliveAgent() })).body).toBe('ok')
  const warnings: Error[] = []
  const onWarning = (warning: Error): void => void warnings.push(warning)
  process.on('warning', onWarning)
  track({ [Symbol.asyncDispose]: async () => void process.off('warning', onWarning) })
  expect(await drain(connections, quick, close ? [close] : [])).toBe(0)
  await new Promise(setImmediate)
  expect(warnings).toEqual([])
})

test('shutdown hooks run newest first after the last request, and one that fails stops nobody', async () => {
  const connections = tracked()
  const order: string[] = []
  let begun = false
  const { url } = await serverOf((_req, res) => {
    begun = true
    setTimeout(() => {
      order.push('request')
      res.end()
    }, 100)
  })
  const reply = get(url)
  await until(() => begun, { what: 'the request to be in flight' })
  const warned = once(process, 'warning')
  await drain(connections, quick, [
    () => void order.push('first'),
    () => Promise.reject(new Error('hook failed')),
    async () => {
      await new Promise((resolve) => setTimeout(resolve, 20))
      order.push('third')
    },
  ])
  await reply
  expect(order).toEqual(['request', 'third', 'first'])
  expect(await warned).toMatchObject([{ code: 'AS_ONE_SHUTDOWN_HOOK' }])
})

test('a hook that never ends costs the deadline, no more', async () => {
  const startedAt = performance.now()
  await drain(tracked(), { delayMs: 0, lingerMs: 0, timeoutMs: 300 }, [() => new Promise(() => {})])
  expect(performance.now() - startedAt).toBeLessThan(5_000)
})

test('idle connections of a Node whose insides we do not know are closed, not passed on and not waited for', async () => {
  const connections = tracked()
  const { server, url, port } = await serverOf((_req, res) => res.end('x'))
  const client = rawClient(port)
  client.socket.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n')
  await until(() => client.text().endsWith('x'), { what: 'its answer' })
  const parsers = Object.getOwnPropertySymbols(server).filter(
    ({ description }) => description === 'http.server.connections',
  )
  expect(parsers).toHaveLength(1)
  for (const each of parsers) Object.defineProperty(server, each, { value: undefined })
  const sent: object[] = []
  const cut = await drain(connections, quick, [], (connection) => void sent.push(connection))
  await client.closed
  expect([cut, sent.length]).toEqual([0, 0])
  await expect(get(url)).rejects.toThrow(/ECONNREFUSED/)
})

import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'
import { connectTo } from './choose-redis.ts'
import { until } from './fork.ts'
import { startRedis } from './redis.ts'
import { startProxy, type TcpProxy } from './tcp-proxy.ts'

let server: Server
let proxy: TcpProxy

beforeEach(async () => {
  server = createServer({ allowHalfOpen: true }, (socket) => socket.on('error', () => {}).pipe(socket))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  proxy = await startProxy({ target: { port: (server.address() as { port: number }).port } })
})

afterEach(() => server.close())

interface Client {
  /** Resolves to the error that ended the connection, if one did. */
  closed: Promise<string | undefined>
  socket: Socket
  received(): string
  /** Milliseconds until the echo has come back. */
  echo(text: string): Promise<number>
}

async function dial(port = proxy.port): Promise<Client> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  socket.on('error', () => {})
  const closed = new Promise<string | undefined>((resolve) => {
    socket.once('close', () => resolve((socket.errored as NodeJS.ErrnoException | null)?.code))
  })
  let received = ''
  socket.setEncoding('latin1').on('data', (text: string) => {
    received += text
  })
  await once(socket, 'connect')
  return {
    socket,
    closed,
    received: () => received,
    async echo(text) {
      const [startedAt, wanted] = [performance.now(), received + text]
      socket.write(text)
      await until(() => received === wanted, { what: `the echo of ${text}`, every: 1 })
      return performance.now() - startedAt
    },
  }
}

test('passes bytes, counts them, and closes with both sides', async () => {
  const client = await dial()
  await client.echo('hello')
  expect(proxy.bytes).toEqual({ up: 5, down: 5 })
  expect(proxy.connections).toBe(1)
  client.socket.end()
  expect(await client.closed).toBeUndefined()
  await until(() => proxy.connections === 0, { what: 'the connection to be forgotten' })
})

test('delays one direction or both', async () => {
  const client = await dial()
  proxy.delay(50, 0, 'up')
  expect(await client.echo('a')).toBeGreaterThanOrEqual(49)
  proxy.delay(50)
  expect(await client.echo('b')).toBeGreaterThanOrEqual(99)
  proxy.delay(0)
  // One of several: a busy machine may keep any of them.
  await until(async () => (await client.echo('c')) < 49, { what: 'an echo without delay' })
})

test('keeps the order under jitter', async () => {
  const client = await dial()
  proxy.delay(0, 20)
  let sent = ''
  for (let at = 0; at < 100; at++) {
    const part = `<${at}>`
    sent += part
    client.socket.write(part)
    await sleep(1) // chunks of their own
  }
  await until(() => client.received() === sent, { what: 'everything to come back in order' })
})

test('carries more than any buffer holds', async () => {
  const client = await dial()
  const size = 40 * 2 ** 20
  client.socket.write(Buffer.alloc(size, 'x'))
  await until(() => proxy.bytes.down === size, { what: '40 MiB to come back', deadline: 20_000 })
})

test('a frozen direction is silent, loses nothing and hides the end of the connection', async () => {
  const client = await dial()
  await client.echo('before')
  proxy.freeze('down')
  client.socket.write('during')
  await until(() => proxy.bytes.up === 12, { what: 'the upward half to pass' })
  client.socket.end()
  const late = await dial()
  late.socket.write('late')
  await sleep(50)
  expect(client.received()).toBe('before')
  expect(client.socket.readableEnded).toBe(false)
  expect(late.received()).toBe('')
  proxy.unfreeze('down')
  expect(await client.closed).toBeUndefined()
  expect(client.received()).toBe('beforeduring')
  await until(() => late.received() === 'late', { what: 'the late echo' })
})

test('reset sends RST to live connections and leaves the door open', async () => {
  const client = await dial()
  await client.echo('x')
  proxy.reset()
  expect(await client.closed).toBe('ECONNRESET')
  expect(proxy.connections).toBe(0)
  await (await dial()).echo('again')
})

test('refuses new connections on the same port while live ones go on', async () => {
  const client = await dial()
  await client.echo('x')
  await proxy.refuse(true)
  await expect(dial()).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  await client.echo('still here')
  await proxy.refuse(false)
  await (await dial()).echo('back')
})

test('cuts in the middle of a chunk, once', async () => {
  const client = await dial()
  proxy.cutAfterBytes(3, 'down')
  client.socket.write('abcdef')
  expect(await client.closed).toBe('ECONNRESET')
  expect(client.received()).toBe('abc')
  await (await dial()).echo('abcdef')
})

test('a dead target resets the client', async () => {
  const dead = await startProxy({ target: { path: '/nonexistent/socket' } })
  const client = await dial(dead.port)
  expect(await client.closed).toBe('ECONNRESET')
})

test('stands before a Redis on a unix socket', async () => {
  const redis = await startRedis({ socket: true })
  const before = await startProxy({ target: { path: redis.socketPath! } })
  const client = connectTo(before.url())
  onTestFinished(() => client.disconnect())
  expect(await client.ping()).toBe('PONG')
  before.freeze()
  const held = client.ping()
  expect(await Promise.race([held, sleep(200, 'silence')])).toBe('silence')
  before.unfreeze()
  expect(await held).toBe('PONG')
})

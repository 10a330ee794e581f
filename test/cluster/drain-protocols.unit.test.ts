import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import http2, { type ClientHttp2Session, createServer as createHttp2Server } from 'node:http2'
import https from 'node:https'
import { createRequire } from 'node:module'
import net, { type AddressInfo, type Socket } from 'node:net'
import tls from 'node:tls'
import { expect, test } from 'vitest'
import { type Connections, trackConnections } from '../../src/cluster/connections.ts'
import { drain } from '../../src/cluster/drain.ts'
import { track } from '../helpers/cleanup.ts'
import { until } from '../helpers/until.ts'

/** ws comes without types. */
interface WebSocket {
  on(event: string, listener: (...args: never[]) => void): void
  send(text: string): void
}
const { WebSocketServer, WebSocket } = createRequire(import.meta.url)('ws') as {
  WebSocketServer: new (options: {
    server: Server
  }) => { on(event: 'connection', listener: (socket: WebSocket) => void): void }
  WebSocket: new (url: string, options?: object) => WebSocket
}

const quick = { delayMs: 0, lingerMs: 100, timeoutMs: 5_000 }

function tracked(): Connections {
  const connections = trackConnections()
  track({ [Symbol.asyncDispose]: async () => connections.untrack() })
  return connections
}

async function listening(server: net.Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  track({ [Symbol.asyncDispose]: async () => void server.close() })
  return (server.address() as AddressInfo).port
}

async function http2Client(port: number): Promise<ClientHttp2Session> {
  const client = http2.connect(`http://127.0.0.1:${port}`)
  client.on('error', () => {})
  await once(client, 'connect')
  track({ [Symbol.asyncDispose]: async () => client.destroy() })
  return client
}

function ask(client: ClientHttp2Session, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const stream = client.request({ ':path': path })
    let text = ''
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
    })
    stream.once('error', reject)
    stream.once('end', () => resolve(text))
  })
}

test('HTTP/2: GOAWAY at once, what has begun or is on its way is answered, then the connection closes', async () => {
  const connections = tracked()
  let begun = 0
  const server = createHttp2Server((_req, res) => {
    begun += 1
    setTimeout(() => res.end('done'), 400)
  })
  const client = await http2Client(await listening(server))
  const goaways: number[] = []
  client.on('goaway', (code: number) => void goaways.push(code))
  const first = ask(client, '/')
  await until(() => begun === 1, { what: 'the first stream' })
  const second = ask(client, '/')
  await new Promise(setImmediate) // it has left the client, and the server has not read it
  const draining = drain(connections, quick, [])
  expect(await Promise.all([first, second])).toEqual(['done', 'done'])
  expect(await draining).toBe(0)
  expect(goaways[0]).toBe(0)
  expect(client.closed || client.destroyed).toBe(true)
})

test('HTTP/2: a session whose handshake ends during the drain has its first request answered', async () => {
  const connections = tracked()
  const key = Buffer.from('shared by both ends, so that no certificate is needed')
  const server = http2.createSecureServer({ pskCallback: () => key, ciphers: 'PSK' }, (_req, res) => {
    res.end('done')
  })
  const port = await listening(server)
  const accepted = once(server, 'connection')
  const socket = net.connect(port, '127.0.0.1')
  await accepted
  const draining = drain(connections, { ...quick, lingerMs: 1_000 }, [])
  const client = http2.connect(`https://127.0.0.1:${port}`, {
    createConnection: () =>
      tls.connect({
        socket,
        ALPNProtocols: ['h2'],
        ciphers: 'PSK',
        pskCallback: () => ({ psk: key, identity: 'test' }),
        checkServerIdentity: () => undefined,
      }),
  })
  track({ [Symbol.asyncDispose]: async () => client.destroy() })
  await once(client, 'remoteSettings') // had it been told by now to go away, it could ask nothing
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(await ask(client, '/')).toBe('done')
  expect(await draining).toBe(0)
})

test('HTTP/2: an idle connection is closed after the linger, an event stream is ended', async () => {
  const connections = tracked()
  const server = createHttp2Server((_req, res) => {
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    res.write('data: 1\n\n')
  })
  const port = await listening(server)
  const idle = await http2Client(port)
  const streaming = await http2Client(port)
  const stream = ask(streaming, '/events')
  await until(() => connections.counts().inFlight === 1, { what: 'the stream to be open' })
  const startedAt = performance.now()
  expect(await drain(connections, quick, [])).toBe(0)
  expect(performance.now() - startedAt).toBeLessThan(3_000)
  expect(await stream).toBe('data: 1\n\n')
  await until(() => idle.destroyed && streaming.destroyed, { what: 'both to be closed' })
  expect(connections.counts()).toEqual({ requests: 1, inFlight: 0, connections: 0 })
})

test('a WebSocket gets 1001 after the linger, in order behind what was sent before', async () => {
  const connections = tracked()
  const server = createServer()
  new WebSocketServer({ server }).on('connection', (socket) => {
    socket.on('message', ((data: Buffer) => socket.send(`echo ${data}`)) as never)
  })
  const client = new WebSocket(`ws://127.0.0.1:${await listening(server)}`)
  const received: string[] = []
  client.on('message', ((data: Buffer) => void received.push(String(data))) as never)
  const closed = new Promise<number>((resolve) => client.on('close', resolve as never))
  await new Promise<void>((resolve) => client.on('open', resolve))
  const draining = drain(connections, { ...quick, lingerMs: 300 }, [])
  client.send('still here')
  expect(await closed).toBe(1001)
  expect(received).toEqual(['echo still here'])
  expect(await draining).toBe(0)
})

test('so does one over TLS', async () => {
  const connections = tracked()
  const key = Buffer.from('shared by both ends, so that no certificate is needed')
  const server = https.createServer({ pskCallback: () => key, ciphers: 'PSK' })
  new WebSocketServer({ server }).on('connection', (socket) => {
    socket.on('message', ((data: Buffer) => socket.send(`echo ${data}`)) as never)
  })
  const client = new WebSocket(`wss://127.0.0.1:${await listening(server)}`, {
    ciphers: 'PSK',
    pskCallback: () => ({ psk: key, identity: 'test' }),
    checkServerIdentity: () => undefined,
  })
  const received: string[] = []
  client.on('message', ((data: Buffer) => void received.push(String(data))) as never)
  const closed = new Promise<number>((resolve) => client.on('close', resolve as never))
  await new Promise<void>((resolve) => client.on('open', resolve))
  const draining = drain(connections, { ...quick, lingerMs: 300 }, [])
  client.send('still here')
  expect(await closed).toBe(1001)
  expect(received).toEqual(['echo still here'])
  expect(await draining).toBe(0)
})

test("what else is upgraded learns of it by its server's 'drain' event", async () => {
  const connections = tracked()
  const server = createServer()
  const upgraded = new Set<net.Socket>()
  server.on('upgrade', (_req, socket: Socket) => {
    upgraded.add(socket)
    socket.on('error', () => {})
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: mine\r\n\r\n')
  })
  server.on('drain', () => {
    for (const socket of upgraded) socket.end('bye')
  })
  const client = net.connect(await listening(server), '127.0.0.1')
  let text = ''
  client.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  client.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: mine\r\n\r\n')
  await until(() => upgraded.size === 1, { what: 'the upgrade' })
  expect(await drain(connections, quick, [])).toBe(0)
  await until(() => client.destroyed || client.readableEnded, { what: 'the end' })
  expect(text).toMatch(/bye$/)
})

test('an event stream whose app writes once more after its end harms nobody', async () => {
  const connections = tracked()
  let again = (): void => {}
  const server = createServer((_req, res) => {
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    res.write('data: 1\n\n')
    again = () => void res.write('data: 2\n\n')
  })
  const port = await listening(server)
  const stream = fetch(`http://127.0.0.1:${port}/`).then((reply) => reply.text())
  await until(() => connections.counts().inFlight === 1, { what: 'the stream to be open' })
  connections.endEventStreams()
  again()
  expect(await stream).toBe('data: 1\n\n')
})

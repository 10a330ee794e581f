import http2, { type ClientHttp2Session, type SecureClientSessionOptions } from 'node:http2'
import { expect, test } from 'vitest'
import { until } from '../helpers/fork.ts'
import { isLong, long } from '../helpers/long.ts'
import { fixture, startCluster } from './start-cluster.ts'

const TLS_KEY = 'shared by both ends'
const LINGER_MS = 300
const MOST_TRIES = 4
const tls: SecureClientSessionOptions = {
  ciphers: 'PSK',
  pskCallback: () => ({ psk: Buffer.from(TLS_KEY), identity: 'test' }),
  checkServerIdentity: () => undefined,
}

/**
 * Keeps one session for all its requests, and opens the next one when it is told to go away. A request that Node had
 * not yet written when that came it refuses itself: not processed, so it is sent again (RFC 9113, 8.7).
 */
function createClient(url: string) {
  let session: ClientHttp2Session | undefined
  let sessions = 0
  const open = (): ClientHttp2Session => {
    const opened = http2.connect(url, tls)
    sessions += 1
    const forget = (): void => {
      if (session === opened) session = undefined
    }
    opened.once('goaway', forget).once('close', forget)
    opened.on('error', forget) // its streams have it too
    session = opened
    return opened
  }
  const once = (path: string, body?: Buffer): Promise<number> => {
    const stream = (session ?? open()).request({ ':path': path, ':method': body ? 'POST' : 'GET' })
    return new Promise((resolve, reject) => {
      let status = 0
      let text = ''
      stream.once('response', (headers) => {
        status = Number(headers[':status'])
      })
      stream.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
      })
      stream.once('error', (error) => reject(Object.assign(error, { rstCode: stream.rstCode })))
      stream.once('close', () =>
        text.endsWith('}') ? resolve(status) : reject(new Error(`cut off, code ${stream.rstCode}`)),
      )
      stream.setTimeout(10_000, () => reject(new Error('hung')))
      stream.end(body)
    })
  }
  return {
    sessions: () => sessions,
    async ask(path: string, body?: Buffer): Promise<number> {
      for (let tries = 1; ; tries++) {
        const isFirst = session === undefined
        const askedAt = performance.now()
        try {
          return await once(path, body)
        } catch (error) {
          const { rstCode } = error as { rstCode?: number }
          // The first one of a session is sent before anybody goes away, unless its client stood still for that long.
          const isEarly = isFirst && performance.now() - askedAt < LINGER_MS
          if (isEarly || rstCode !== http2.constants.NGHTTP2_REFUSED_STREAM || tries === MOST_TRIES)
            throw error
        }
      }
    },
    close: () => session?.close(),
  }
}

test('HTTP/2 over TLS: workers are replaced under load without a failed request or a forced kill', async () => {
  const reloads = long(2, 25)
  const cluster = await startCluster({
    options: { drain: { linger: LINGER_MS } },
    app: fixture('http2.mjs'),
    env: { TLS_KEY, LOG: '1' },
  })
  const url = `https://127.0.0.1:${cluster.port}`
  const failures: string[] = []
  let answered = 0
  let stopping = false
  const visit = async (client: ReturnType<typeof createClient>, path: string, body?: Buffer) => {
    try {
      expect(await client.ask(path, body)).toBe(200)
      answered += 1
    } catch (error) {
      failures.push(`${path}: ${(error as NodeJS.ErrnoException).code ?? ''} ${(error as Error).message}`)
    }
  }
  const body = Buffer.alloc(16_384)
  const busy = Array.from({ length: 4 }, () => createClient(url))
  const idle = Array.from({ length: 20 }, () => createClient(url))
  const loads = [
    ...busy.flatMap((client) =>
      ['/slow?ms=20', '/slow?ms=150', '/slow?ms=5'].map(async (path) => {
        while (!stopping) await visit(client, path, path === '/slow?ms=5' ? body : undefined)
      }),
    ),
    // Those that think for about as long as idle sessions stay open.
    ...idle.map(async (client, index) => {
      while (!stopping) {
        await visit(client, '/')
        await new Promise((resolve) => setTimeout(resolve, LINGER_MS * (0.5 + index / 10)))
      }
    }),
    // Each request on a session of its own.
    (async () => {
      while (!stopping) {
        const client = createClient(url)
        await visit(client, '/slow?ms=5')
        client.close()
      }
    })(),
  ]
  for (let round = 0; round < reloads; round++) await cluster.tell('reload')
  await until(() => answered > 50 * reloads, { what: 'a load worth the name, on a machine that pauses too' })
  stopping = true
  await Promise.all(loads)
  for (const client of [...busy, ...idle]) client.close()
  if (isLong)
    console.info(`[http2] ${2 * reloads} replacements: ${answered} answered, ${failures.length} failed`)
  expect(failures).toEqual([])
  expect(answered).toBeGreaterThan(50 * reloads)
  for (const client of busy) expect(client.sessions()).toBeGreaterThan(reloads / 2)
  // Nothing was done twice.
  const done = (): number => cluster.primary.lines.filter((line) => line.startsWith('stdout ')).length
  await until(() => done() >= answered, { what: 'the log of the last one' })
  expect(done()).toBe(answered)
  const exits = cluster.events('worker-exited').map(({ exit }) => exit)
  expect(exits).toEqual(Array(2 * reloads).fill({ code: 0, signal: null, forced: false }))
}, 300_000)

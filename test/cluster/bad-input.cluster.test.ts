import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, createServer as createNetServer, type Server } from 'node:net'
import { describe, expect, test } from 'vitest'
import { track } from '../helpers/cleanup.ts'
import { freePort, type NodeProcess, runNode } from '../helpers/fork.ts'
import { sharedRedis } from '../helpers/redis.ts'
import { fixture } from './start-cluster.ts'

interface Call {
  app?: string
  way?: string
  options?: Record<string, unknown>
  env?: Record<string, string | undefined>
}

/** A primary that must not come up; its managed Redis, if any, would live in its state directory. */
async function call({ app, way, options = {}, env }: Call): Promise<NodeProcess> {
  return runNode(fixture('mistake.mjs'), {
    env: {
      PORT: String(await freePort()),
      REDIS_URL: sharedRedis().url,
      WEB_CONCURRENCY: '2',
      CASE: app,
      WAY: way,
      OPTIONS: JSON.stringify(options),
      ...env,
    },
  })
}

/** Its stderr, once it has ended as a failed start must: code 1, one line, nobody left. */
async function failureOf(input: Call): Promise<string> {
  const primary = await call(input)
  expect(await primary.exit, primary.stderr()).toEqual({ code: 1, signal: null })
  expect(primary.tree()).toEqual([])
  expect(primary.stderr().match(/^as-one: /gm), primary.stderr()).toHaveLength(1)
  expect(primary.stderr()).toMatch(/^as-one: /)
  expect(primary.stdout()).toBe('')
  return primary.stderr()
}

async function listening(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  track({ [Symbol.asyncDispose]: async () => void server.close() })
  return (server.address() as AddressInfo).port
}

describe('one clear line, exit code 1, nobody left', () => {
  test('unknown and contradictory options, all in it', async () => {
    const line = await failureOf({
      options: {
        instances: 4,
        hots: 'x',
        port: 70_000,
        socketPath: '/x',
        drain: { delay: '10s' },
        backoff: { min: '2s', max: '1s' },
      },
      env: { WEB_CONCURRENCY: 'many' },
    })
    for (const what of [
      'instances is not an option; did you mean workers?',
      'hots is not an option; did you mean host?',
      'port must be a whole number from 0 to 65535, got 70000',
      "workers must be 1 to 1024, 'max', '50%' or 'inline', got 'many' from WEB_CONCURRENCY",
      'drain.stopTimeout (8000 ms) must be longer than',
      'backoff.min must not be longer than backoff.max',
    ])
      expect(line).toContain(what)
    expect(line.trim().split('\n')).toHaveLength(1)
  })

  test('a wrong scheme in REDIS_URL, without its password', async () => {
    const line = await failureOf({ env: { REDIS_URL: 'http://me:secret@localhost:1' } })
    expect(line).toMatch(/REDIS_URL must start with redis:\/\/.*'http:\/\/…@localhost:1'\n$/)
    expect(line).not.toContain('secret')
  })

  test('an unreachable Redis', async () => {
    const env = { REDIS_URL: `redis://127.0.0.1:${await freePort()}` }
    const lines = await Promise.all([failureOf({ env }), failureOf({ env, options: { workers: 'inline' } })])
    for (const line of lines)
      expect(line).toMatch(
        /^as-one: Redis at 127\.0\.0\.1:\d+ did not answer .*ECONNREFUSED.*check REDIS_URL.*\n$/,
      )
  })

  test('a Redis older than 7.0', async () => {
    const port = await listening(fakeRedis('6.2.14'))
    const line = await failureOf({ env: { REDIS_URL: `redis://127.0.0.1:${port}` } })
    expect(line).toMatch(
      /^as-one: redis 6\.2\.14 at 127\.0\.0\.1:\d+ is too old: as-one needs Redis >= 7\.0.*\n$/,
    )
  })

  test('nothing configured in production', async () => {
    const line = await failureOf({ env: { NODE_ENV: 'production', REDIS_URL: undefined } })
    expect(line).toMatch(/^as-one: .*set REDIS_URL.*redis: 'local'.*\n$/)
  })

  test('a port in use', async () => {
    const port = await listening(createServer())
    const line = await failureOf({ options: { port, host: '127.0.0.1' } })
    expect(line).toMatch(new RegExp(`no worker could start: .*port ${port} on 127.0.0.1 is in use`))
    expect(line.trim().split('\n')).toHaveLength(1) // no stack: the message says what to do
  })

  test('an app that throws at import: what and where', async () => {
    const text = await failureOf({ app: 'throws at import' })
    expect(text).toMatch(
      /^as-one: no worker could start: exited with code 1 .*Error: this app throws at import\n/,
    )
    expect(text).toContain('fixtures/throws.mjs:1')
  })

  test('an app that never listens', async () => {
    const line = await failureOf({ app: 'never listens', options: { readyTimeout: '600ms' } })
    expect(line).toMatch(/^as-one: no worker could start: .*not ready within 600 ms \(readyTimeout\).*\n$/)
  })

  test('(req) =>', async () => {
    expect(await failureOf({ app: 'one parameter' })).toMatch(/^as-one: .*one parameter.*\n$/)
  })

  test.each(['returns nothing', 'returns one parameter'])('a factory that %s', async (app) => {
    const line = await failureOf({ app })
    expect(line).toMatch(
      /^as-one: no worker could start: .*has no parameters, so it was called as a factory, and it returned/,
    )
  })

  test('no app', async () => {
    expect(await failureOf({ app: 'undefined' })).toMatch(
      /^as-one: runCluster\(app\): got undefined\. An app is .*\n$/,
    )
  })

  test('inline as well', async () => {
    const options = { workers: 'inline' }
    expect(await failureOf({ app: 'returns nothing', options })).toMatch(/called as a factory/)
    expect(await failureOf({ app: 'never listens', options: { ...options, readyTimeout: 300 } })).toMatch(
      /readyTimeout/,
    )
  })

  test('with the managed local Redis, which is stopped again', async () => {
    const line = await failureOf({
      app: 'never listens',
      options: { readyTimeout: '300ms' },
      env: { REDIS_URL: undefined },
    })
    expect(line).toContain('readyTimeout')
  })
})

describe('how it is called', () => {
  test('nobody awaits it: the same line', async () => {
    expect(await failureOf({ app: 'one parameter', way: 'forget' })).toMatch(/^as-one: .*one parameter.*\n$/)
    expect(await failureOf({ app: 'returns nothing', way: 'forget' })).toMatch(/called as a factory/)
  })

  test.each([
    ['one parameter', 'ERR_AS_ONE_APP', {}],
    ['good', 'ERR_AS_ONE_OPTIONS', { port: -1 }],
    ['returns nothing', 'ERR_AS_ONE_BOOT', {}],
    ['good', 'ERR_AS_ONE_REDIS_CONFIG', { redis: 'nowhere' }],
  ])(
    'caught (%s): the typed error, and not a word of our own; the process ends by itself',
    async (app, code, options) => {
      const primary = await call({ app, options, way: 'catch' })
      expect(await primary.exit).toEqual({ code: 0, signal: null })
      expect(primary.stdout()).toBe(`caught SharedStateError ${code}\n`)
      expect(primary.stderr()).toBe('')
      expect(primary.tree()).toEqual([])
    },
  )

  test("the app's own handler of uncaught errors has it", async () => {
    const primary = await call({ app: 'one parameter', way: 'own handler' })
    expect(await primary.exit).toEqual({ code: 0, signal: null })
    expect(primary.stdout()).toBe('own handler ERR_AS_ONE_APP\n')
    expect(primary.stderr()).toBe('')
  })

  test("another error of that moment is Node's to tell", async () => {
    const primary = await call({ app: 'one parameter', way: 'other error' })
    expect(await primary.exit).toEqual({ code: 1, signal: null })
    expect(primary.stderr()).toMatch(/TypeError: a mistake in the catch/)
    expect(primary.stderr()).not.toContain('as-one:')
  })
})

/** Speaks just enough RESP for a client to ask for the version. */
function fakeRedis(version: string): Server {
  return createNetServer((socket) => {
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      for (const [, name] of chunk.toString().matchAll(/\*\d+\r\n\$\d+\r\n([A-Za-z]+)\r\n/g)) {
        const info = `# Server\r\nredis_version:${version}\r\n`
        if (name?.toLowerCase() === 'info') socket.write(`$${info.length}\r\n${info}\r\n`)
        else if (name?.toLowerCase() === 'hello') socket.write("-ERR unknown command 'HELLO'\r\n")
        else socket.write('+OK\r\n')
      }
    })
  })
}

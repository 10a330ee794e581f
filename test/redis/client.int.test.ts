import { once } from 'node:events'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { Redis } from 'ioredis'
import { expect, onTestFinished, test } from 'vitest'
import { channels } from '../../src/core/channels.ts'
import { createRedisConnection, type RedisConnection } from '../../src/redis/client.ts'
import { createRedisSource, type RedisSource } from '../../src/redis/source.ts'
import type { RedisOption } from '../../src/redis/target.ts'
import { freePort } from '../helpers/ports.ts'
import { startRedis, startRedisCluster, startSentinel } from '../helpers/redis.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'

const clock = runningClock()

const sourceOf = (redis: RedisOption): RedisSource =>
  createRedisSource(redis, { name: 'test', env: {}, cwd: '/' })

function open(redis: RedisOption | RedisSource): RedisConnection {
  const source =
    typeof redis === 'object' && 'target' in redis ? (redis as RedisSource) : sourceOf(redis as RedisOption)
  const connection = createRedisConnection(source, 'as-one:test')
  onTestFinished(() => connection.close())
  return connection
}

/** A server that speaks as much RESP as a connection needs until it asks for the version. */
async function fakeServer(
  reply: (command: string) => string,
): Promise<{ url: string; server: Server; asked: string[] }> {
  const asked: string[] = []
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      for (const command of chunk.toString().match(/\*\d+\r\n(?:\$\d+\r\n[^\r]*\r\n)+/g) ?? []) {
        const words = [...command.matchAll(/\$\d+\r\n([^\r]*)\r\n/g)].map(([, word]) => word)
        asked.push(words.join(' ').toLowerCase())
        socket.write(reply(asked.at(-1) as string))
      }
    })
    onTestFinished(() => void socket.destroy())
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  onTestFinished(() => void server.close())
  return { url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`, server, asked }
}

const bulk = (text: string): string => `$${Buffer.byteLength(text)}\r\n${text}\r\n`

test('opens at the first ready(), once for all who wait', async () => {
  const redis = await startRedis()
  const admin = redis.client()
  const connection = open(redis.url)
  expect(connection.now).toBeUndefined()
  const named = async (): Promise<number> =>
    ((await admin.client('LIST')) as string).split('name=as-one:test ').length - 1
  expect(await named()).toBe(0)
  const clients = await Promise.all([connection.ready(), connection.ready(), connection.ready()])
  expect(new Set(clients).size).toBe(1)
  expect(connection.now).toBe(clients[0])
  expect(await clients[0]!.ping()).toBe('PONG')
  expect(await named()).toBe(1)
})

test('an unreachable Redis is said so at the deadline, with address and reason, and waiting leaves nothing', async () => {
  const port = await freePort()
  const connection = open(`redis://:hunter2@127.0.0.1:${port}`)
  const startedAt = performance.now()
  await expect(connection.ready({ timeoutMs: 300 })).rejects.toMatchObject({
    code: 'ERR_AS_ONE_REDIS_UNAVAILABLE',
    message: expect.stringMatching(
      new RegExp(
        `^Redis at 127.0.0.1:${port} did not answer within 300 ms \\(.*ECONNREFUSED.*\\); check REDIS_URL`,
      ),
    ),
  })
  expect(performance.now() - startedAt).toBeLessThan(4_000) // without a deadline of one's own it is 5,000
  await expect(connection.ready({ signal: AbortSignal.timeout(50) })).rejects.toMatchObject({
    code: 'ERR_AS_ONE_ABORTED',
  })
  expect(connection.now).toBeUndefined()
})

test('a Redis that comes later is found', async () => {
  const port = await freePort()
  const connection = open(`redis://127.0.0.1:${port}`)
  const ready = connection.ready({ timeoutMs: 20_000 }) // a server may take its time to start
  await expect(connection.ready({ timeoutMs: 100 })).rejects.toThrow(/did not answer/)
  await startRedis({ port })
  expect(await (await ready).ping()).toBe('PONG')
})

test('a wrong password, and a missing one: no message holds any', async () => {
  const redis = await startRedis({ args: ['--requirepass', 'open-sesame'] })
  const failures = [`redis://:hunter2@127.0.0.1:${redis.port}`, redis.url].map(async (url) => {
    // Long enough for Redis to refuse, also on a busy machine: before that there is nothing to tell.
    const error = (await open(url)
      .ready({ timeoutMs: 2_000 })
      .catch((failed: unknown) => failed)) as Error
    expect(error.message).toMatch(/WRONGPASS|NOAUTH/)
    expect(`${error.message} ${String(error.cause)} ${error.stack}`).not.toMatch(/hunter2|open-sesame/)
  })
  await Promise.all(failures)
  expect(await (await open(`redis://:open-sesame@127.0.0.1:${redis.port}`).ready()).ping()).toBe('PONG')
})

test('a server that is too old is refused by name, at once and for good', async () => {
  const fake = await fakeServer((command) => {
    if (command.startsWith('hello')) return "-ERR unknown command 'HELLO'\r\n"
    if (command.startsWith('info')) return bulk('# Server\r\nredis_version:6.2.0\r\n')
    return '+OK\r\n'
  })
  const connection = open(fake.url)
  const startedAt = performance.now()
  for (let again = 0; again < 2; again++) {
    await expect(connection.ready()).rejects.toMatchObject({
      code: 'ERR_AS_ONE_REDIS_VERSION',
      message: expect.stringContaining('redis 6.2.0 at 127.0.0.1'),
    })
  }
  expect(performance.now() - startedAt).toBeLessThan(4_000) // the deadline alone would be 5,000
  expect(connection.now).toBeUndefined()
})

test('a server that does not answer INFO in time is asked again', async () => {
  let silent = true
  const fake = await fakeServer((command) => {
    if (command.startsWith('hello')) return "-ERR unknown command 'HELLO'\r\n"
    if (command === 'info server') return silent ? '' : bulk('redis_version:7.0.0\r\n')
    if (command === 'info') return bulk('redis_version:7.0.0\r\nloading:0\r\n')
    return '+PONG\r\n'
  })
  const connection = open(fake.url)
  const ready = connection.ready({ timeoutMs: 10_000 })
  await until(() => fake.asked.includes('info server'), { what: 'the version to be asked' })
  await until(() => fake.asked.filter((command) => command === 'info server').length > 1, {
    what: 'a second question',
  })
  silent = false
  await ready
})

test('commands in flight fail with their connection, later ones at once, and it comes back by itself', async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const connection = open(proxy.url())
  const states: string[] = []
  connection.onChange((state) => states.push(state))
  const client = await connection.ready()
  proxy.freeze('down')
  const inFlight = client.incr('counter').catch((error: unknown) => error)
  await until(async () => (await redis.client().get('counter')) === '1', { what: 'the command to run' })
  const startedAt = clock()
  proxy.reset()
  expect(await inFlight).toBeInstanceOf(Error)
  const tookMs = clock() - startedAt
  expect(tookMs).toBeLessThan(500) // their deadline alone would be 1,000
  expect(connection.now).toBeUndefined()
  proxy.unfreeze()
  await connection.ready()
  expect(await client.get('counter')).toBe('1') // and was not run again
  expect(states).toEqual(['up', 'down', 'up'])
})

test('a silent Redis costs a command its timeout of 1 s, not more', async () => {
  const redis = await startRedis()
  const client = await open(redis.url).ready()
  await redis.pause()
  const startedAt = clock()
  await expect(client.ping()).rejects.toThrow(/timed out/)
  expect(clock() - startedAt).toBeLessThan(2_000)
  await redis.resume()
  await until(async () => (await client.ping()) === 'PONG', { what: 'Redis to answer again' })
})

test('close(): never opened, opening, open, twice; waiters are told', async () => {
  const never = open('redis://127.0.0.1:1')
  await never.close()
  await expect(never.ready()).rejects.toMatchObject({ code: 'ERR_AS_ONE_CLOSED' })

  const opening = open(`redis://127.0.0.1:${await freePort()}`)
  const waiting = expect(opening.ready()).rejects.toMatchObject({ code: 'ERR_AS_ONE_CLOSED' })
  await opening.close()
  await waiting

  const redis = await startRedis()
  const connection = open(redis.url)
  const client = await connection.ready()
  const answers = Promise.all(Array.from({ length: 50 }, () => client.incr('n')))
  const closed = connection.close()
  expect(connection.close()).toBe(closed)
  expect(connection.now).toBeUndefined()
  await closed
  expect((await answers).at(-1)).toBe(50)
  await until(async () => !((await redis.client().client('LIST')) as string).includes('as-one:test'), {
    what: 'the connection to be gone',
  })
})

test('close() does not wait for a Redis that is silent', async () => {
  const redis = await startRedis()
  const connection = open(redis.url)
  await connection.ready()
  await redis.pause()
  const startedAt = clock()
  await connection.close()
  expect(clock() - startedAt).toBeLessThan(1_500)
})

test('a source that fails is asked again at the next use', async () => {
  const redis = await startRedis()
  let attempts = 0
  const source = sourceOf(redis.url)
  const failing: RedisSource = {
    ...source,
    async target() {
      if (++attempts < 3) throw new Error('no redis-server found')
      return source.target()
    },
  }
  const connection = open(failing)
  for (let attempt = 1; attempt < 3; attempt++) {
    await expect(connection.ready()).rejects.toMatchObject({
      code: 'ERR_AS_ONE_REDIS_UNAVAILABLE',
      message: expect.stringContaining('no redis-server found'),
    })
    expect(attempts).toBe(attempt)
  }
  expect(await (await connection.ready()).ping()).toBe('PONG')
})

test("a caller's instance is never closed, and its options do not undo the profile", async () => {
  const redis = await startRedis()
  const own = new Redis({
    port: redis.port,
    enableAutoPipelining: true,
    stringNumbers: true,
    commandTimeout: 60_000,
    enableOfflineQueue: true,
  })
  onTestFinished(() => own.disconnect())
  const connection = open(own)
  const client = await connection.ready()
  expect(client).not.toBe(own)
  expect(await client.incr('n')).toBe(1)
  expect(client.options).toMatchObject({
    enableAutoPipelining: false,
    enableOfflineQueue: false,
  })
  expect(client.options).not.toHaveProperty('commandTimeout')
  await connection.close()
  expect(await own.ping()).toBe('PONG')
})

test('tells the diagnostics channel of up and down', async () => {
  const redis = await startRedis()
  const events: unknown[] = []
  const listener = (message: unknown): void => void events.push(message)
  channels.redis.subscribe(listener)
  onTestFinished(() => void channels.redis.unsubscribe(listener))
  const connection = open(redis.url)
  await connection.ready()
  await connection.close()
  expect(events).toMatchObject([
    { event: 'up', connection: 'as-one:test', label: `127.0.0.1:${redis.port}` },
    { event: 'down', connection: 'as-one:test' },
  ])
})

/** Counts what goes to the kernel: each is one system call. */
function countWrites(client: Redis): () => number {
  let count = 0
  const { _handle: handle } = client.stream as unknown as {
    _handle: Record<string, (...args: unknown[]) => unknown>
  }
  for (const name of [
    'writev',
    'writeBuffer',
    'writeUtf8String',
    'writeLatin1String',
    'writeAsciiString',
    'writeUcs2String',
  ]) {
    const write = handle[name] as (...args: unknown[]) => unknown
    handle[name] = function (this: unknown, ...args: unknown[]) {
      count++
      return write.apply(this, args)
    }
  }
  return () => count
}

const afterTick = (): Promise<void> => new Promise((resolve) => process.nextTick(resolve))

test('all commands of a turn of the loop leave in one write, in order', async () => {
  const redis = await startRedis()
  const client = (await open(redis.url).ready()) as Redis
  const writes = countWrites(client)
  const replies = await Promise.all(Array.from({ length: 7 }, (_, at) => client.rpush('list', at)))
  expect(replies).toEqual([1, 2, 3, 4, 5, 6, 7])
  expect(writes()).toBe(1)
  await Promise.all([client.pipeline().get('a').get('b').exec(), client.get('c')])
  expect(writes()).toBe(2)
  // Two callbacks of one turn, as of two sockets that were readable.
  const replyIn = (name: string) => new Promise((resolve) => setImmediate(() => resolve(client.get(name))))
  await Promise.all([replyIn('a'), replyIn('b')])
  expect(writes()).toBe(3)
  expect(await client.lrange('list', 0, -1)).toEqual(['0', '1', '2', '3', '4', '5', '6'])
})

test('what comes more slowly than Redis answers is not cut into several writes', async () => {
  const redis = await startRedis()
  const client = (await open(redis.url).ready()) as Redis
  const writes = countWrites(client)
  const slowly = (at: number): Promise<number> => {
    for (const until = performance.now() + 0.02; performance.now() < until; );
    return client.rpush('list', at)
  }
  const replies = await Promise.all(Array.from({ length: 40 }, (_, at) => slowly(at)))
  expect(replies).toEqual(Array.from({ length: 40 }, (_, at) => at + 1))
  expect(writes()).toBe(1)
})

test('where one command comes after the other each leaves at once; two at a time wait for the end of their turn', async () => {
  const redis = await startRedis()
  const client = (await open(redis.url).ready()) as Redis
  const two = (): Promise<unknown> => Promise.all([client.get('a'), client.get('b')])
  await two()
  await two()
  const writes = countWrites(client)
  const held = client.get('a')
  await afterTick()
  expect(writes()).toBe(0)
  await held
  for (let turn = 0; turn < 4; turn++) await client.get('a')
  const before = writes()
  const alone = client.get('a')
  expect(writes()).toBe(before + 1)
  // Something is in flight: what else this turn brings goes together.
  const others = [client.get('b'), client.get('c')]
  await afterTick()
  expect(writes()).toBe(before + 1)
  await Promise.all([alone, ...others])
  expect(writes()).toBe(before + 2)
  // Pairs and single ones in turn, as of requests that read, then write: never taken for single ones.
  for (let turn = 0; turn < 10; turn++) {
    const then = writes()
    await two()
    await client.get('c')
    expect(writes()).toBe(then + 2)
  }
})

test('a long burst leaves in parts, so that Redis begins at once; in order', async () => {
  const redis = await startRedis()
  const client = (await open(redis.url).ready()) as Redis
  const writes = countWrites(client)
  let length = 0
  const burst = async (): Promise<number> => {
    const before = writes()
    const replies = await Promise.all(Array.from({ length: 64 }, (_, at) => client.rpush('list', at)))
    expect(replies).toEqual(replies.map((_, at) => length + at + 1))
    length += 64
    return writes() - before
  }
  // How many parts is a matter of speed, which a cold or busy process does not have.
  const parts = await until(async () => ((await burst()) > 1 ? burst() : undefined), {
    what: 'a burst in parts',
    deadline: 30_000,
    every: 1,
  })
  expect(parts).toBeLessThanOrEqual(9)
  const list = await client.lrange('list', 0, -1)
  expect(list).toEqual(Array.from({ length }, (_, at) => String(at % 64)))
})

test('a connection that breaks between two commands of a turn leaves nothing corked', async () => {
  const redis = await startRedis()
  const connection = open(redis.url)
  const client = (await connection.ready()) as Redis
  const lost = client.get('a').catch(() => 'lost')
  client.stream.destroy()
  const alsoLost = client.get('b').catch(() => 'lost')
  expect(await Promise.all([lost, alsoLost])).toEqual(['lost', 'lost'])
  await connection.ready()
  expect(client.stream.writableCorked).toBe(0)
  expect(await client.ping()).toBe('PONG')
})

test('Cluster: goes on by itself after a slot has moved and after a master has died', async () => {
  const cluster = await startRedisCluster({ replicas: 1 })
  const connection = open(`redis+cluster://127.0.0.1:${cluster.nodes[0]!.port}`)
  const client = await connection.ready()
  const keys = Array.from({ length: 30 }, (_, at) => `key:${at}`)
  // All at once, over connections that are only being opened.
  expect(await Promise.all(keys.map((key) => client.incr(key)))).toEqual(keys.map(() => 1))
  const first = await cluster.ownerOf('key:0')
  const second = cluster.nodes.slice(0, 3).find((node) => node !== first)!
  await cluster.moveSlots(first, second, [(await client.cluster('KEYSLOT', 'key:0')) as number])
  expect(await Promise.all(keys.map((key) => client.incr(key)))).toEqual(keys.map(() => 2))

  await second.client().wait(1, 5_000)
  await second.kill()
  const work = async (): Promise<boolean> =>
    (await Promise.all(keys.map((key) => client.set(key, '7')))).length > 0
  await until(work, { what: 'all slots to be served again', deadline: 60_000, every: 100 })
  expect(connection.now).toBe(client)
}, 150_000)

test('Sentinel: follows the master', async () => {
  const sentinel = await startSentinel()
  const connection = open(sentinel.url)
  const client = await connection.ready()
  await client.set('key', 'value')
  const master = await sentinel.failover()
  await until(async () => (await (await connection.ready()).set('key', 'later')) === 'OK', {
    what: 'the client to follow',
  })
  expect(await master.client().get('key')).toBe('later')
}, 150_000)

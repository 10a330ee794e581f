import { randomBytes } from 'node:crypto'
import type { Redis } from 'ioredis'
import { expect, onTestFinished, test } from 'vitest'
import { createRedisConnection } from '../../src/redis/client.ts'
import { publishPieces } from '../../src/redis/publish.ts'
import { createRedisSource } from '../../src/redis/source.ts'
import { startRedis } from '../helpers/redis.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'

async function connection(url: string) {
  const source = createRedisSource(url, { name: 'test', env: {}, cwd: '/' })
  const made = createRedisConnection(source, 'test')
  onTestFinished(() => made.close())
  return (await made.ready()) as Redis
}

async function ear(redis: Redis, channel: string): Promise<Buffer[]> {
  const heard: Buffer[] = []
  redis.on('messageBuffer', (_channel, message: Buffer) => heard.push(message))
  await redis.subscribe(channel)
  return heard
}

test('pieces of any size arrive as one message each, in order with all other commands', async () => {
  const server = await startRedis()
  const channel = `pieces ${randomBytes(4).toString('hex')} ü`
  const heard = await ear(server.client(), channel)
  const redis = await connection(server.url)
  const messages = [[1], [5, 0, 7], [16 << 10], [16 << 10, 1], [200_000, 3, 70_000], [1 << 20], [2]].map(
    (sizes) => sizes.map((size) => randomBytes(size)),
  )
  const replies = await Promise.all(
    messages.flatMap((pieces, at) => [publishPieces(redis, channel, pieces), redis.echo(`${at}`)]),
  )
  expect(replies).toEqual(messages.flatMap((_, at) => [1, `${at}`]))
  await until(() => heard.length === messages.length, { what: 'all messages' })
  for (const [at, pieces] of messages.entries()) expect(heard[at]!.equals(Buffer.concat(pieces))).toBe(true)
})

test('a link that breaks in the middle of the pieces fails that command, and the next one is whole', async () => {
  const server = await startRedis()
  const proxy = await startProxy({ target: { port: server.port } })
  const heard = await ear(server.client(), 'channel')
  const redis = await connection(proxy.url())
  const pieces = [randomBytes(100_000), randomBytes(100_000)]
  proxy.cutAfterBytes(150_000, 'up')
  await expect(publishPieces(redis, 'channel', pieces)).rejects.toThrow()
  await until(() => redis.status === 'ready', { what: 'the connection to be back' })
  expect(await publishPieces(redis, 'channel', pieces)).toBe(1)
  await until(() => heard.length > 0, { what: 'the message' }) // on a connection of its own
  expect(heard.map((message) => message.length)).toEqual([200_000])
})

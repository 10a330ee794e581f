import { expect, test } from 'vitest'
import { long } from '../helpers/long.ts'
import { fileRng } from '../helpers/random.ts'
import { sharedRedis, sharedRedisClient, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { openCache, untilOn } from './open-cache.ts'

/** Redis counts in whole ms, and by the time at which its turn began. */
const TOLERANCE_MS = 10

test('a copy is never served after the TTL that was read with it', async () => {
  const namespace = testNamespace()
  const [writer, reader] = [1, 2].map(() => openCache(sharedRedis().url, namespace)) as [
    ReturnType<typeof openCache>,
    ReturnType<typeof openCache>,
  ]
  await untilOn(writer, reader)
  const rng = fileRng()
  const client = sharedRedisClient()
  let worst = Number.NEGATIVE_INFINITY
  let seen = 0

  async function watch(key: string, shortened: boolean): Promise<void> {
    const redisKey = `${namespace}:c:main:${key}`
    const ttl = rng.int(300, 900)
    const copiedOrOver = async (): Promise<boolean> => {
      await reader.get(key)
      return reader.peek(key) !== undefined || (await client.exists(redisKey)) === 0
    }
    const untilCopiedOrOver = () => until(copiedOrOver, { what: `a copy of ${key}, or its end`, every: 5 })
    await writer.set(key, key, { ttl: shortened ? '1h' : ttl })
    await untilCopiedOrOver()
    if (shortened) {
      // By anybody: the copy that follows has the shorter one.
      await client.pexpire(redisKey, ttl)
      await until(() => reader.peek(key) === undefined, { what: 'the copy to go', every: 1 })
      await untilCopiedOrOver()
    }
    const endsAt = await client.pexpiretime(redisKey)
    if (endsAt < 0) return // so busy a machine that it is over already
    for (;;) {
      const now = Date.now() // before the look: what delays us in between must not count
      if (reader.peek(key) === undefined) return
      seen += 1
      worst = Math.max(worst, now - endsAt)
      await new Promise(setImmediate)
    }
  }

  for (let round = 0; round < long(2, 20); round++)
    await Promise.all(Array.from({ length: 30 }, (_, at) => watch(`${round}-${at}`, at % 2 === 0)))
  console.info(`[cache] TTL: copies seen ${seen} times, the last ${-worst} ms before their end`)
  expect(seen).toBeGreaterThan(1_000)
  expect(worst).toBeLessThanOrEqual(TOLERANCE_MS)
})

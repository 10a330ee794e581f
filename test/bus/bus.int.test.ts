import type { Redis } from 'ioredis'
import { beforeAll } from 'vitest'
import { sharedRedis, sharedRedisClient } from '../helpers/redis.ts'
import { busSuite } from '../suites/bus-suite.ts'

let client: Redis

beforeAll(() => {
  client = sharedRedisClient()
})

busSuite(() => ({
  url: sharedRedis().url,
  publish: (channel, message) => client.publish(channel, message),
}))

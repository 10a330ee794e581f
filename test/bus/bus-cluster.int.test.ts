import type { Cluster } from 'ioredis'
import { beforeAll } from 'vitest'
import { type RedisCluster, startRedisCluster } from '../helpers/redis.ts'
import { busSuite } from '../suites/bus-suite.ts'

let cluster: RedisCluster
let client: Cluster

beforeAll(async () => {
  cluster = await startRedisCluster()
  client = cluster.client()
})

busSuite(() => ({ url: cluster.url, publish: (channel, message) => client.spublish(channel, message) }))

import { expect, test } from 'vitest'
import { startRedis } from '../helpers/redis.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { listen } from './listen.ts'

test('a link that is up stays up while nothing happens; a half-open one is noticed within 12 s', async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const [quiet, halfOpen] = [listen(redis.url), listen(proxy.url())]
  await Promise.all([quiet.upAgain(1), halfOpen.upAgain(1)])
  proxy.freeze()
  const startedAt = performance.now()
  await until(() => !halfOpen.subscriber.up, { what: 'the silence to be noticed', deadline: 12_000 })
  expect(performance.now() - startedAt).toBeGreaterThan(4_000) // it was the PING
  expect(halfOpen.states).toEqual(['up', 'PING was not answered'])
  expect(quiet.states).toEqual(['up'])

  // The new attempts go into the same silence; what they say arrives when it ends, on connections long given up.
  await until(() => proxy.accepted >= 3, {
    what: 'an attempt to be given up and another made',
    deadline: 12_000,
  })
  proxy.unfreeze()
  await halfOpen.upAgain(2)
  await redis.client().publish('channel', 'once')
  await until(() => halfOpen.messages.length > 0 && quiet.messages.length > 0, { what: 'the message' })
  expect([halfOpen.messages, quiet.messages]).toEqual([['once'], ['once']])
}, 40_000)

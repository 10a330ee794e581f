import { expect, onTestFinished, test } from 'vitest'
import { createBus } from '../../src/bus/bus.ts'
import { holdHub } from '../../src/bus/hubs.ts'
import type { Bus } from '../../src/bus/interface.ts'
import { createKeys } from '../../src/core/keys.ts'
import { createRedisSource, type RedisSource } from '../../src/redis/source.ts'
import { sharedRedis, sharedRedisClient, startRedis, testNamespace } from '../helpers/redis.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'

/** As the managed local Redis: asking for the target is what holds it. */
function localSource(id: string): RedisSource & { held: boolean } {
  const real = createRedisSource(sharedRedis().url, { name: 'test', env: {}, cwd: '/', id })
  const source = {
    ...real,
    local: true,
    held: false,
    target() {
      source.held = true
      return real.target()
    },
    async close() {
      source.held = false
    },
  }
  return source
}

test('one hub for each namespace and Redis, closed by the last to let go', async () => {
  const [keys, otherKeys] = [createKeys(testNamespace()), createKeys(testNamespace())]
  const one = holdHub(keys, localSource('one'))
  const two = holdHub(keys, localSource('one'))
  const others = [holdHub(otherKeys, localSource('one')), holdHub(keys, localSource('two'))]
  onTestFinished(async () => {
    for (const hold of [one, two, ...others]) await hold.release()
  })
  expect(two.hub).toBe(one.hub)
  expect(new Set([one, ...others].map(({ hub }) => hub)).size).toBe(3)
  const client = sharedRedisClient()
  const listeners = async (): Promise<unknown> => (await client.pubsub('NUMSUB', keys.prefix('bus')))[1]
  await until(async () => (await listeners()) === 2, { what: 'both hubs of the namespace to listen' })
  await one.release()
  await one.release()
  expect(await listeners()).toBe(2)
  await two.release()
  await until(async () => (await listeners()) === 1, { what: 'the hub to be closed' })
  const again = holdHub(keys, localSource('one'))
  expect(again.hub).not.toBe(one.hub)
  await again.release()
})

test('whoever stays holds the local Redis before the one who opened the hub lets it go', async () => {
  const keys = createKeys(testNamespace())
  const [first, second] = [localSource('local'), localSource('local')]
  const opened = holdHub(keys, first)
  const joined = holdHub(keys, second)
  await until(() => first.held, { what: 'the hub to ask where Redis is' })
  expect(second.held).toBe(false)
  await opened.release()
  expect(second.held).toBe(true)
  await first.close()
  await joined.release()
})

test('close() sends what is queued although the hub lives on for others', async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const keys = createKeys(testNamespace())
  const open = (id: string, url: string): Bus => {
    const bus = createBus({ keys, source: createRedisSource(url, { name: 'test', env: {}, cwd: '/', id }) })
    onTestFinished(() => bus.close())
    return bus
  }
  const [leaving, staying] = [open('same', proxy.url()), open('same', proxy.url())]
  const far = open('far', redis.url)
  const heard: unknown[] = []
  await far.subscribe('news', (payload) => heard.push(payload)).ready
  await Promise.all([leaving, staying].map((bus) => bus.subscribe('x', () => {}).ready))
  proxy.delay(100)
  for (let at = 0; at < 200; at++) leaving.broadcast('news', at)
  await leaving.close()
  // Redis has answered for all of it by now, so nothing is on its way any more.
  const sent = heard.length
  await until(() => heard.length >= 200, { what: 'what was queued' })
  expect(sent).toBeGreaterThan(0)
  expect(heard).toEqual(Array.from({ length: 200 }, (_, at) => at))
  const { remote } = await staying.publish('news', 200)
  expect(remote).toBe('sent')
})

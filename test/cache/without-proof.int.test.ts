import { expect, test } from 'vitest'
import { monitor } from '../helpers/monitor.ts'
import { sharedRedis, sharedRedisClient, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { openCache, untilOn } from './open-cache.ts'

// A cache without copies listens to nothing, so at every read Redis has to say what counts.

test('a read is one command, of how many tags and keys ever', async () => {
  const { url } = sharedRedis()
  const namespace = testNamespace()
  const cache = openCache(url, namespace, { l1: false })
  await cache.set('plain', 1)
  await cache.set('tagged', 2, { tags: ['red', 'wool', 'a\nb "ü"'] })
  const space = cache.namespace('space')
  await space.set('k', 3)
  expect([await cache.get('plain'), await cache.get('tagged'), await space.get('k')]).toEqual([1, 2, 3])
  const { sent } = await monitor(Number(new URL(url).port))
  const ours = (): string[] =>
    sent.filter(({ line }) => line.includes(`"${namespace}:c:`)).map(({ name }) => name)
  expect(await cache.get('plain')).toBe(1)
  expect(await cache.get('tagged')).toBe(2)
  expect(await space.get('k')).toBe(3)
  const several = ['plain', 'none', 'tagged']
  expect(await cache.getMany(several)).toEqual([1, undefined, 2])
  // After so many that came one after the other the first of several leaves at once, and the others together.
  for (let i = 0; i < 5; i++) expect(await cache.get('plain')).toBe(1)
  expect(await Promise.all(several.map((key) => cache.get(key)))).toEqual([1, undefined, 2])
  await sharedRedisClient().set(`${namespace}:c:end`, '')
  await until(() => ours().includes('set'), { what: 'MONITOR to have told everything' })
  expect(ours()).toEqual([...Array<string>(3 + 1 + 5 + 2).fill('evalsha'), 'set'])
})

test('short and long values, alone and together, with proof and without', async () => {
  const { url } = sharedRedis()
  const namespace = testNamespace()
  const long = 'ü'.repeat(20_000)
  for (const cache of [openCache(url, namespace, { l1: false }), openCache(url, namespace)]) {
    if (cache.stats().l1.reason !== 'switched off by l1: false') await untilOn(cache)
    await cache.set('short', 1)
    await cache.set('long', long, { tags: ['red'] })
    expect(await cache.get('long')).toBe(long)
    expect(await cache.getOrSet('short', () => 'not asked')).toBe(1)
    await cache.delete('none')
    await cache.setMany([
      { key: 'short', value: 2 },
      { key: 'long', value: long },
    ])
    expect(await cache.getMany(['long', 'none', 'short'])).toEqual([long, undefined, 2])
    expect(await cache.get('none')).toBeUndefined()
  }
})

test('tags, namespaces and clear() count at once', async () => {
  const { url } = sharedRedis()
  const namespace = testNamespace()
  const cache = openCache(url, namespace, { l1: false })
  const other = openCache(url, namespace)
  const store = async (): Promise<void> => {
    await cache.set('plain', 1)
    await cache.set('tagged', 2, { tags: ['red', 'wool'] })
    await cache.namespace('space').set('k', 3)
  }
  const read = () => cache.getMany(['plain', 'tagged', 'space:k'])
  await store()
  expect(await read()).toEqual([1, 2, 3])
  await other.deleteByTag('wool')
  expect(await read()).toEqual([1, undefined, 3])
  await other.namespace('space').clear()
  expect(await read()).toEqual([1, undefined, undefined])
  await store()
  await other.clear()
  expect(await read()).toEqual([undefined, undefined, undefined])
})

test('a version that is in use lives on, and what a foreign client leaves is a miss', async () => {
  const { url } = sharedRedis()
  const namespace = testNamespace()
  const redis = sharedRedisClient()
  const cache = openCache(url, namespace, { l1: false })
  await cache.set('k', 1, { tags: ['t'] })
  const versions = [`${namespace}:c:main`, `${namespace}:c:main#t`]
  for (const version of versions) await redis.pexpire(version, 60_000)
  expect(await cache.get('k')).toBe(1)
  for (const version of versions) expect(await redis.pttl(version)).toBeGreaterThan(86_400_000)

  const key = `${namespace}:c:main:k`
  const [header, meta, value] = String(await redis.get(key)).split('\n') as [string, string, string]
  const deep = '['.repeat(5_000)
  const wrong = ['[', '{}', '5', '"#t"', '[0,"#t",false]', '[0,"#t"]', '[0,5,"x"]', '[0,["#t"],"x"]', deep]
  for (const each of wrong) {
    await redis.set(key, [header, each, value].join('\n'), 'PX', 60_000)
    expect(await cache.get('k'), each.slice(0, 20)).toBeUndefined()
  }
  await redis.set(key, `${header}${meta}`, 'PX', 60_000) // a marker
  expect(await cache.get('k')).toBeUndefined()
  for (const version of versions) {
    await redis.set(key, [header, meta, value].join('\n'), 'PX', 60_000)
    expect(await cache.get('k')).toBe(1)
    const before = String(await redis.get(version))
    await redis.del(version)
    await redis.lpush(version, before)
    expect(await cache.get('k')).toBeUndefined()
    await redis.set(version, before)
  }
})

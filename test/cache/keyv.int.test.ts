import { createCache as createManager } from 'cache-manager'
import { Keyv } from 'keyv'
import { describe, expect, test } from 'vitest'
import { keyvStore } from '../../src/cache/keyv.ts'
import { sharedRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { openCache, untilOn, untilSet } from './open-cache.ts'

/** Two processes. */
function open() {
  const namespace = testNamespace()
  return [1, 2].map(() => openCache(sharedRedis().url, namespace)) as [
    ReturnType<typeof openCache>,
    ReturnType<typeof openCache>,
  ]
}
const soon = { every: 2 }

describe('Keyv', () => {
  test('stores, finds, expires and deletes through it', async () => {
    const [here, there] = open()
    const one = new Keyv({ store: keyvStore(here) })
    const two = new Keyv({ store: keyvStore(there) })
    const errors: unknown[] = []
    for (const keyv of [one, two]) keyv.on('error', (error) => errors.push(error))
    await one.set('a', { x: [1] })
    expect(await two.get('a')).toEqual({ x: [1] })
    for (const falsy of [null, 0, '', false]) {
      await one.set('falsy', falsy)
      expect(await one.get('falsy')).toBe(falsy)
    }
    expect(await two.has('a')).toBe(true)
    expect(await two.delete('a')).toBe(true)
    expect(await two.delete('a')).toBe(false)
    await until(async () => (await one.get('a')) === undefined, { what: 'the delete to be seen', ...soon })
    const setAt = performance.now()
    await one.set('short', 1, 200)
    const found = await one.get('short')
    // A machine that stands still meanwhile has let it end.
    expect(performance.now() - setAt < 190 ? found : 1).toBe(1)
    await until(async () => (await one.get('short')) === undefined, { what: 'the end of its TTL', ...soon })
    await one.setMany([
      { key: 'm1', value: 1 },
      { key: 'm2', value: 2, ttl: 60_000 },
    ])
    expect(await two.getMany(['m1', 'none', 'm2'])).toEqual([1, undefined, 2])
    expect(await two.hasMany(['m1', 'none'])).toEqual([true, false])
    expect(await one.deleteMany(['m1', 'm2'])).toBe(true)
    expect(await one.getMany(['m1', 'm2'])).toEqual([undefined, undefined])
    expect(errors).toEqual([])
  })

  test('takes the serializers that are put into the options of its store', async () => {
    const [here] = open()
    const store = keyvStore(here)
    const keyv = new Keyv({ store, serialize: ({ value }) => `<${String(value)}>` })
    store.opts.deserialize = (text: string) => ({ value: BigInt(text.slice(1, -1)) })
    keyv.deserialize = store.opts.deserialize as NonNullable<typeof keyv.deserialize>
    await keyv.set('big', 5n)
    expect(await keyv.get('big')).toBe(5n)
  })

  test('clears its namespace and no other', async () => {
    const [here, there] = open()
    const users = new Keyv({ store: keyvStore(here), namespace: 'users' })
    const posts = new Keyv({ store: keyvStore(there), namespace: 'posts' })
    await users.set('1', 'u')
    await posts.set('1', 'p')
    expect(await here.namespace('users').get('1')).toBe(JSON.stringify({ value: 'u' }))
    await users.clear()
    expect(await users.get('1')).toBeUndefined()
    expect(await posts.get('1')).toBe('p')
  })

  test('hears of a failed write', async () => {
    const server = await startRedis()
    const cache = openCache(server.url, testNamespace(), { timeout: 300 })
    const keyv = new Keyv({ store: keyvStore(cache) })
    const errors: unknown[] = []
    keyv.on('error', (error) => errors.push(error))
    await untilSet(cache, 'a', 1)
    await server.kill()
    expect(await keyv.set('a', 2)).toBe(false)
    expect(errors).toMatchObject([{ code: 'ERR_AS_ONE_REDIS_UNAVAILABLE' }])
  })
})

test('cache-manager wraps, and others see it', async () => {
  const [here, there] = open()
  await untilOn(here, there)
  const one = createManager({ stores: [new Keyv({ store: keyvStore(here) })], ttl: 60_000 })
  const two = createManager({ stores: [new Keyv({ store: keyvStore(there) })], ttl: 60_000 })
  let loads = 0
  const load = () => ({ loads: ++loads })
  expect(await one.wrap('w', load)).toEqual({ loads: 1 })
  expect(await two.wrap('w', load)).toEqual({ loads: 1 })
  await one.mset([{ key: 'a', value: 1 }])
  expect(await two.mget(['a', 'b'])).toEqual([1, undefined])
  await two.del('w')
  await until(async () => (await one.get('w')) === undefined, { what: 'the delete to be seen', ...soon })
  await two.clear()
  await until(async () => (await one.get('a')) === undefined, { what: 'the clear to be seen', ...soon })
})

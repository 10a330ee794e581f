import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { Cache } from '../../src/cache/index.ts'
import { channels } from '../../src/core/channels.ts'
import { long } from '../helpers/long.ts'
import { sharedRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { startProxy, type TcpProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { openCache, untilCopied, untilOn, untilSet } from './open-cache.ts'

async function proxyTo(url: string): Promise<TcpProxy> {
  const { hostname, port } = new URL(url)
  return startProxy({ target: { host: hostname, port: Number(port) } })
}

/**
 * How long after `write` the reader still got what was there before, in ms; and that it goes on working. Looks for twice
 * the bound.
 */
async function staleness(
  reader: Cache,
  key: string,
  write: () => Promise<unknown>,
  value: unknown,
  boundMs: number,
): Promise<number> {
  await untilCopied(reader, key)
  await write()
  const resolvedAt = performance.now()
  let worst = 0
  let fresh = 0
  const giveUpAt = resolvedAt + 20_000
  while (performance.now() < resolvedAt + 2 * boundMs || (fresh <= 100 && performance.now() < giveUpAt)) {
    const began = performance.now()
    const seen = await reader.get(key)
    if (seen === value) fresh += 1
    else if (seen !== undefined) worst = began - resolvedAt // a miss is no old value
    await sleep(1)
  }
  expect(fresh).toBeGreaterThan(100)
  return worst
}

async function heardDuring(work: () => Promise<unknown>): Promise<Record<string, unknown>[]> {
  const heard: Record<string, unknown>[] = []
  const listen = (message: unknown): void => void heard.push(message as Record<string, unknown>)
  channels.cache.subscribe(listen)
  try {
    await work()
  } finally {
    channels.cache.unsubscribe(listen)
  }
  return heard
}

describe('staleness is bounded when the hub', () => {
  test('hears nothing any more', async () => {
    const { url } = sharedRedis()
    const proxy = await proxyTo(url)
    const namespace = testNamespace()
    const writer = openCache(url, namespace)
    const reader = openCache(url, namespace, {}, proxy.url())
    await untilOn(writer, reader)
    const worsts: number[] = []
    // A machine that stands still just then sees nothing old; then again.
    for (let round = 0; round < long(2, 20) || (Math.max(...worsts) <= 300 && round < 20); round++) {
      await writer.set('k', 'old')
      await untilCopied(reader, 'k')
      proxy.freeze('down')
      worsts.push(await staleness(reader, 'k', () => writer.set('k', 'new'), 'new', 1_000))
      expect(reader.stats().l1.on).toBe(false)
      proxy.unfreeze('down')
      await untilOn(reader)
    }
    console.info(`[cache] hub frozen: worst staleness ${worsts.map(Math.round)} ms of 1000`)
    expect(Math.max(...worsts)).toBeLessThanOrEqual(1_000)
    expect(Math.max(...worsts)).toBeGreaterThan(300) // or the fault was none
  }, 120_000)

  test('cannot ask any more', async () => {
    const { url } = sharedRedis()
    const proxy = await proxyTo(url)
    const namespace = testNamespace()
    const writer = openCache(url, namespace)
    const reader = openCache(url, namespace, { maxStaleness: 400 }, proxy.url())
    await untilOn(writer, reader)
    await writer.set('k', 'old')
    await untilCopied(reader, 'k')
    proxy.freeze('up')
    expect(await staleness(reader, 'k', () => writer.set('k', 'new'), 'new', 400)).toBeLessThanOrEqual(400)
    proxy.unfreeze('up')
    await untilOn(reader)
  })

  test('loses its connections again and again', async () => {
    const { url } = sharedRedis()
    const proxy = await proxyTo(url)
    const namespace = testNamespace()
    const writer = openCache(url, namespace)
    const reader = openCache(url, namespace, {}, proxy.url())
    await untilOn(writer, reader)
    let worst = 0
    for (let round = 1; round <= long(20, 200); round++) {
      const last = `last ${round}`
      await writer.set('k', round)
      await reader.get('k')
      proxy.reset()
      const write = writer.set('k', last)
      if (round % 2) await sleep(round % 7)
      await write
      const resolvedAt = performance.now()
      for (let began = resolvedAt; began < resolvedAt + 50; began = performance.now()) {
        if ((await reader.get('k')) !== last) worst = Math.max(worst, began - resolvedAt)
        await sleep(1)
      }
      if (round % 4 === 0) await untilOn(reader)
      expect(await reader.get('k')).toBe(last)
    }
    expect(worst).toBeLessThan(50)
    console.info(`[cache] hub killed: worst staleness ${Math.round(worst)} ms of 1000`)
  })
})

describe('a read that a write overtakes', () => {
  test('fills no copy with what was there before', async () => {
    const { url } = sharedRedis()
    const proxy = await proxyTo(url)
    const namespace = testNamespace()
    const writer = openCache(url, namespace)
    const reader = openCache(proxy.url(), namespace, {}, url) // its answers are late, its invalidations are not
    await untilOn(writer, reader)
    let stale = 0
    for (const jitter of [2, 10]) {
      proxy.delay(0, jitter, 'down')
      for (let round = 0; round < long(150, 1_000); round++) {
        const key = `k${jitter}-${round}`
        await writer.set(key, 'old')
        const [, change] = [reader.get(key), round % 2 ? writer.set(key, 'new') : writer.delete(key)]
        await change
      }
      await sleep(100)
      for (let round = 0; round < long(150, 1_000); round++) {
        const key = `k${jitter}-${round}`
        if ((reader.peek(key) ?? 'new') !== 'new') stale += 1
      }
    }
    expect(stale).toBe(0)
  })
})

test('a write that was reported as failed does not overtake the next one', async () => {
  const { url } = sharedRedis()
  const proxy = await proxyTo(url)
  const namespace = testNamespace()
  // Without copies the generation is asked for first: a `set` is two commands.
  const slow = openCache(proxy.url(), namespace, { l1: false, timeout: 300 })
  const other = openCache(url, namespace)
  await untilSet(slow, 'k', 'first')
  for (let round = 0; round < long(3, 30); round++) {
    proxy.freeze()
    await expect(slow.set('k', 'rejected')).rejects.toMatchObject({ code: 'ERR_AS_ONE_REDIS_UNAVAILABLE' })
    const later = slow.delete('k')
    proxy.unfreeze()
    await later
    // Whatever was still to be sent has been sent before this is answered.
    await slow.get('none')
    expect(await slow.get('k')).toBeUndefined()
    expect(await other.get('k')).toBeUndefined()
  }
})

test('an answer that comes too late is let go, whatever there was still to ask about it', async () => {
  const { url } = sharedRedis()
  const proxy = await proxyTo(url)
  const namespace = testNamespace()
  const writer = openCache(url, namespace)
  const slow = openCache(proxy.url(), namespace, { timeout: 100 }, url)
  await untilOn(slow)
  await writer.set('k', 1, { tags: ['not asked for yet'] })
  await writer.set('plain', 1)
  await untilCopied(slow, 'plain')
  await slow.get('none') // from now on the generation is known, and only the tag is not
  const lost: unknown[] = []
  const lose = (error: unknown): void => void lost.push(error)
  process.on('unhandledRejection', lose)
  try {
    proxy.freeze('down')
    expect(await slow.get('k')).toBeUndefined()
    proxy.unfreeze('down')
    await until(async () => (await slow.get('k')) === 1, { what: 'Redis to be asked again' })
    expect(lost).toEqual([])
  } finally {
    process.off('unhandledRejection', lose)
  }
})

describe('a server that refuses tracking', () => {
  const refusals = {
    'by ACL': '+@all -client|tracking',
    'the channel': '+@all resetchannels &*:b:',
  }
  test.each(Object.entries(refusals))('%s: no copies, one event, all else works', async (_what, rules) => {
    const server = await startRedis()
    const admin = server.client()
    await admin.call('ACL', 'SETUSER', 'app', 'on', '>pw', '~*', '&*', ...rules.split(' '))
    const url = server.url.replace('//', '//app:pw@')
    const namespace = testNamespace()
    let one!: Cache
    const heard = await heardDuring(async () => {
      one = openCache(url, namespace)
      const two = openCache(url, namespace)
      await one.set('k', 1)
      for (let round = 0; round < 50; round++) {
        await one.set('k', round)
        expect(await two.get('k')).toBe(round)
        await sleep(10)
      }
      await one.clear()
      expect(await two.get('k')).toBeUndefined()
      let loads = 0
      const load = () => sleep(100).then(() => ++loads)
      expect(await Promise.all([one, two, one, two].map((cache) => cache.getOrSet('l', load)))).toEqual([
        1, 1, 1, 1,
      ])
      const refused = () => [one, two].every(({ stats }) => stats().l1.reason?.includes('NOPERM'))
      await until(refused, { what: 'both to have been refused' })
    })
    expect(one.stats().l1).toMatchObject({ on: false, entries: 0, reason: expect.stringMatching(/NOPERM/) })
    expect(heard.filter(({ event }) => event === 'l1-off')).toHaveLength(2) // each of the two
    expect(heard.filter(({ event }) => event === 'l1-on')).toHaveLength(0)
  })
})

test('the ACL of the README is enough', async () => {
  const server = await startRedis()
  const namespace = testNamespace()
  const readme = (room: string): string[] => {
    const text = readFileSync(new URL(`../../src/${room}/README.md`, import.meta.url), 'utf8')
    const line = text.split('\n').find((each) => /^(\| )?ACL\b/.test(each)) as string
    const rules = [...line.matchAll(/`([~&+][^`]*)`/g)].flatMap(([, part]) => (part as string).split(' '))
    return rules.map((rule) => rule.replace(/<ns>|<namespace>/, namespace).replaceAll('\\|', '|'))
  }
  // Redis 7.0 knows no SETINFO, and ioredis takes a refusal of it for an answer.
  const rules = [...readme('bus'), ...readme('cache')].filter((rule) => rule !== '+client|setinfo')
  await server.client().call('ACL', 'SETUSER', 'app', 'on', '>pw', 'resetchannels', '-@all', ...rules)
  const url = server.url.replace('//', '//app:pw@')
  const [one, two] = [openCache(url, namespace), openCache(url, namespace)]
  await untilOn(one, two)
  const load = () => sleep(1_000).then(() => 'loaded')
  expect(await Promise.all([one.getOrSet('l', load), two.getOrSet('l', load)])).toEqual(['loaded', 'loaded'])
  expect(one.stats().stores + two.stats().stores).toBe(1)
  await one.set('k', 1)
  await untilCopied(two, 'k')
  await one.delete('k')
  await until(() => two.peek('k') === undefined, { what: 'the copy to go' })
  await one.clear()
})

test('an invalidation arrives within milliseconds', async () => {
  const { url } = sharedRedis()
  const namespace = testNamespace()
  const [writer, reader] = [openCache(url, namespace), openCache(url, namespace)]
  await untilOn(writer, reader)
  const lags: number[] = []
  for (let round = 0; round < 200; round++) {
    await writer.set('k', round)
    await untilCopied(reader, 'k')
    const change = writer.delete('k')
    const began = performance.now()
    while (reader.peek('k') !== undefined) await new Promise(setImmediate)
    lags.push(performance.now() - began)
    await change
  }
  lags.sort((a, b) => a - b)
  const [p50, p99] = [lags[100], lags[197]] as [number, number]
  console.info(
    `[cache] invalidation from call to copy gone: p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms`,
  )
  expect(p50).toBeLessThan(20)
  expect(p99).toBeLessThan(500) // on a busy machine
})

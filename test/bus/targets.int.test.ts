import { expect, expectTypeOf, test } from 'vitest'
import type { Bus, TypedBus } from '../../src/bus/index.ts'
import { sharedRedis, testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'
import { listen, openBus } from '../suites/bus-suite.ts'

/** Two on machine a, one on machine b, who know each other. */
async function three(): Promise<[Bus, Bus, Bus]> {
  const namespace = testNamespace()
  const buses = ['a', 'a', 'b'].map((machine) => openBus(sharedRedis().url, namespace, machine))
  await Promise.all(buses.map((bus) => bus.subscribe('x', () => {}).ready))
  await until(() => buses.every((bus) => bus.members().length === 3), { what: 'all to have met' })
  return buses as [Bus, Bus, Bus]
}

test('to: a member, the machine, any: only they hear it, and nobody takes it for a gap', async () => {
  const [one, neighbour, far] = await three()
  const buses = [one, neighbour, far]
  const gaps: unknown[] = []
  for (const bus of buses) bus.on('gap', (gap) => gaps.push(gap))
  const ears = await Promise.all(buses.map((bus) => listen(bus, 'news')))
  expect(await one.publish('news', 'machine', { to: 'machine' })).toEqual({ local: 1, remote: 'none' })
  expect(await one.publish('news', 'far', { to: far.id })).toEqual({ local: 0, remote: 'sent' })
  expect(await one.publish('news', 'neighbour', { to: neighbour.id })).toEqual({ local: 1, remote: 'none' })
  expect(await one.publish('news', 'self', { to: one.id })).toEqual({ local: 0, remote: 'none' })
  expect(await one.publish('news', 'nobody', { to: 'f'.repeat(16) })).toEqual({ local: 0, remote: 'dropped' })
  expect(await one.publish('news', 'no primary', { to: 'primary' })).toEqual({ local: 0, remote: 'none' })
  for (let at = 0; at < 60; at++) await one.publish('news', `any ${at}`, { to: 'any' })
  await one.publish('news', 'end')
  await until(() => ears.every((ear) => ear.payloads().includes('end')), { what: 'the end' })
  const direct = (index: number): unknown[] =>
    ears[index]!.payloads().filter((payload) => !String(payload).startsWith('any'))
  expect(direct(0)).toEqual(['machine', 'self', 'end'])
  expect(direct(1)).toEqual(['machine', 'neighbour', 'end'])
  expect(direct(2)).toEqual(['far', 'end'])
  const any = ears.map((ear) => ear.payloads().filter((payload) => String(payload).startsWith('any')).length)
  expect(any.reduce((sum, count) => sum + count)).toBe(60)
  for (const count of any) expect(count).toBeGreaterThan(4)
  expect(gaps).toEqual([])
})

test('gather: who has answered what, and who has not and why', async () => {
  const [one, neighbour, far] = await three()
  one.handle('stats', (question) => ({ asked: question, me: 'one' }))
  neighbour.handle('stats', async () => {
    throw new Error('as planned')
  })
  const { results, missing } = await one.gather<object>('stats', 7)
  expect(results).toEqual([
    { member: expect.objectContaining({ id: one.id, self: true }), value: { asked: 7, me: 'one' } },
  ])
  expect(missing.map(({ member, reason }) => [member.id, reason]).sort()).toEqual(
    [
      [neighbour.id, 'error'],
      [far.id, 'unsupported'],
    ].sort(),
  )
  expect(missing.find(({ reason }) => reason === 'error')?.error).toMatchObject({ message: 'as planned' })
  expect(() => one.handle('stats', () => 1)).toThrow(/'stats' is handled already/)
})

test('gather: one that never answers times out, one that leaves is named at once', async () => {
  const [one, neighbour, far] = await three()
  const stop = one.handle('slow', () => 'fast')
  neighbour.handle('slow', () => new Promise(() => {}))
  far.handle('slow', () => new Map([[1n, new Date(5)]]))
  // Longer and longer: a machine that stands still may miss the answers that do come.
  let timeout = 200
  let first = await one.gather('slow', undefined, { timeout })
  while (first.missing.length > 1 && timeout < 10_000) {
    timeout *= 3
    first = await one.gather('slow', undefined, { timeout })
  }
  expect(first.results.map(({ value }) => value)).toEqual(
    expect.arrayContaining(['fast', new Map([[1n, new Date(5)]])]),
  )
  expect(first.missing.map(({ reason }) => reason)).toEqual(['timeout'])
  stop()
  const startedAt = performance.now()
  const asking = one.gather('slow', undefined, { timeout: 20_000 })
  await until(() => performance.now() - startedAt > 50, { what: 'the question to be on its way' })
  await neighbour.close()
  const second = await asking
  expect(performance.now() - startedAt).toBeLessThan(10_000)
  expect(second.missing.map(({ reason }) => reason).sort()).toEqual(['left', 'unsupported'])
  const controller = new AbortController()
  const aborted = one.gather('nothing', undefined, { signal: controller.signal })
  controller.abort()
  await expect(aborted).rejects.toMatchObject({ code: 'ERR_AS_ONE_ABORTED' })
})

test('an answer that cannot be sent is an error with words, not silence', async () => {
  const [one, neighbour] = await three()
  neighbour.handle('odd', () => () => {})
  const { missing } = await one.gather('odd')
  const odd = missing.find(({ member }) => member.id === neighbour.id)
  expect(odd).toMatchObject({ reason: 'error', error: { code: 'ERR_AS_ONE_PAYLOAD' } })
})

test('members() alone joins', async () => {
  const bus = openBus(sharedRedis().url, testNamespace(), 'a')
  expect(bus.members()).toEqual([])
  await until(() => bus.members().length === 1, { what: 'itself' })
})

test('typed topics: the compiler knows what travels on them', () => {
  interface Topics {
    'user.*': { id: string }
    ping: undefined
  }
  type Check = TypedBus<Topics>
  const check = (bus: Check): void => {
    bus.broadcast('user.7', { id: '7' })
    bus.broadcast('ping')
    // @ts-expect-error another payload
    bus.broadcast('user.7', { id: 7 })
    // @ts-expect-error no such topic
    bus.broadcast('users', { id: '7' })
    bus.subscribe('user.*', (user) => expectTypeOf(user).toEqualTypeOf<{ id: string }>())
  }
  expect(check).toBeTypeOf('function')
})

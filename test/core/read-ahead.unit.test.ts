import type { IncomingMessage, ServerResponse } from 'node:http'
import { expect, test } from 'vitest'
import { createReadAhead } from '../../src/core/read-ahead.ts'

const res = {} as ServerResponse
const request = (url: string): IncomingMessage => ({ url }) as IncomingMessage

/** Requests that pass a limit and, some of them, come to the place where what is read is needed. */
function open() {
  const ahead = createReadAhead()
  let reads = 0
  const take = ahead.offer(() => {
    reads += 1
    return { read: reads }
  })
  const send = (url: string, comes = true): { read: number } | undefined => {
    const req = request(url)
    ahead.begin(req, res)
    return comes ? take(req) : undefined
  }
  const readsOf = (count: number, url: (i: number) => string, comes = true): number => {
    const before = reads
    for (let i = 0; i < count; i++) send(url(i), comes)
    return reads - before
  }
  return { ahead, take, send, readsOf }
}

test('nothing is read before it is known that requests come to the place', () => {
  const { readsOf } = open()
  expect(readsOf(64, () => '/app/cart')).toBe(0)
  expect(readsOf(64, () => '/app/cart')).toBe(64)
})

test('what was read is given once, to its own request', () => {
  const { ahead, take, readsOf } = open()
  readsOf(64, () => '/app')
  const [one, other] = [request('/app'), request('/app')]
  ahead.begin(one, res)
  ahead.begin(one, res) // a second limit on its way
  ahead.begin(other, res)
  expect([take(other), take(one), take(one)]).toEqual([{ read: 2 }, { read: 1 }, undefined])
  expect(take(request('/app'))).toBeUndefined()
})

test('a limit behind the place says nothing about where requests go, nor does one that let the first decide alone', () => {
  const { ahead, take } = open()
  const pass = (asked: boolean): { read: number } | undefined => {
    const req = request('/app')
    if (asked) ahead.begin(req, res)
    const early = take(req)
    ahead.begin(req, res) // per user, behind the session
    return early
  }
  for (let i = 0; i < 128; i++) pass(i % 2 === 0)
  expect(pass(true)).toEqual({ read: 1 })
})

test('paths are judged on their own: files that never come cost a window of reads, then none, and pages go on', () => {
  const { readsOf } = open()
  const both = (i: number): string => (i % 2 ? '/app/page' : `/app?${i}`)
  readsOf(64, both)
  expect(readsOf(200, (i) => `/files/${i}.js`, false)).toBeLessThanOrEqual(64)
  expect(readsOf(200, (i) => `/files/${i}.js`, false)).toBe(0)
  expect(readsOf(64, both)).toBe(64)
})

test('a habit that ends is noticed, one that begins again too', () => {
  const { readsOf } = open()
  readsOf(64, () => '/app')
  expect(readsOf(640, () => '/app', false)).toBe(64)
  readsOf(64, () => '/app')
  expect(readsOf(64, () => '/app')).toBe(64)
})

test('paths without end are judged together, in bounded memory', () => {
  const { readsOf } = open()
  readsOf(1_000, (i) => `/${i}`)
  expect(readsOf(200, (i) => `/post-${i}`)).toBe(200)
  expect(readsOf(5_000, (i) => `/post-${i}`, false)).toBeLessThan(200)
})

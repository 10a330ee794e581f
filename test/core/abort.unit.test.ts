import { getEventListeners } from 'node:events'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { withDeadline } from '../../src/core/abort.ts'

const late = (): Error => new Error('late')
const never = (): Promise<never> => new Promise(() => {})
const listenersOn = (signal: AbortSignal): number => getEventListeners(signal, 'abort').length

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

test('the value or the error of the promise, with nothing left behind', async () => {
  const { signal } = new AbortController()
  expect(await withDeadline(Promise.resolve(1), 100, late, signal)).toBe(1)
  await expect(withDeadline(Promise.reject(new Error('own')), 100, late, signal)).rejects.toThrow('own')
  expect(listenersOn(signal)).toBe(0)
})

test('the deadline, with an error made at that moment', async () => {
  const { signal } = new AbortController()
  let state = 'before'
  const waiting = withDeadline(never(), 100, () => new Error(state), signal)
  const failed = expect(waiting).rejects.toThrow('after')
  expect(listenersOn(signal)).toBe(1)
  state = 'after'
  await vi.advanceTimersByTimeAsync(100)
  await failed
  expect(listenersOn(signal)).toBe(0)
})

test('the signal, during and before', async () => {
  const controller = new AbortController()
  const waiting = withDeadline(never(), 100, late, controller.signal)
  const reason = new Error('user left')
  controller.abort(reason)
  await expect(waiting).rejects.toMatchObject({ code: 'ERR_AS_ONE_ABORTED', cause: reason })
  await expect(withDeadline(never(), 100, late, controller.signal)).rejects.toMatchObject({
    code: 'ERR_AS_ONE_ABORTED',
  })
  expect(listenersOn(controller.signal)).toBe(0)
})

test('the loser is observed: its rejection is never unhandled', async () => {
  const unhandled: unknown[] = []
  const onUnhandled = (error: unknown): void => void unhandled.push(error)
  process.on('unhandledRejection', onUnhandled)
  try {
    const losers = [deferred(), deferred()]
    const first = withDeadline(losers[0]!.promise, 10, late)
    const second = withDeadline(losers[1]!.promise, 10, late, AbortSignal.abort())
    const failed = Promise.allSettled([first, second])
    await vi.advanceTimersByTimeAsync(10)
    await failed
    for (const loser of losers) loser.reject(new Error('too late'))
    vi.useRealTimers()
    await new Promise((resolve) => setImmediate(resolve))
    vi.useFakeTimers()
    expect(unhandled).toEqual([])
  } finally {
    process.off('unhandledRejection', onUnhandled)
  }
})

function deferred(): { promise: Promise<never>; reject(error: Error): void } {
  let reject = (_error: Error): void => {}
  const promise = new Promise<never>((_, no) => {
    reject = no
  })
  return { promise, reject }
}

test('a deadline longer than a timer can hold does not fire at once', async () => {
  let over = false
  const { promise, reject } = deferred()
  const waiting = withDeadline(promise, 90 * 86_400_000, late).catch(() => {
    over = true
  })
  await vi.advanceTimersByTimeAsync(60_000)
  expect(over).toBe(false)
  reject(new Error('end of test'))
  await waiting
})

test('without a deadline there is no timer', async () => {
  const waiting = withDeadline(Promise.resolve('x'), undefined, late)
  expect(vi.getTimerCount()).toBe(0)
  expect(await waiting).toBe('x')
})

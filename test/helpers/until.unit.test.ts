import { expect, test } from 'vitest'
import { until } from './until.ts'

test('returns what the condition returned once it holds', async () => {
  let looks = 0
  expect(await until(() => ++looks > 3 && `look ${looks}`, { what: 'the fourth look', every: 1 })).toBe(
    'look 4',
  )
})

test('a condition that throws does not hold yet', async () => {
  let looks = 0
  const condition = () => {
    if (++looks < 3) throw new Error('too early')
    return looks
  }
  expect(await until(condition, { what: 'no error', every: 1 })).toBe(3)
})

test('the failure says what was waited for, how long, and what was seen last', async () => {
  const options = { what: 'rain', deadline: 30, every: 5 }
  await expect(until(() => 0, options)).rejects.toThrow('waited 30 ms for rain; last seen: 0')
  await expect(until(() => Promise.reject(new TypeError('dry')), options)).rejects.toThrow('TypeError: dry')
})

test('a look that never comes back is given up at the deadline', async () => {
  const startedAt = performance.now()
  const never = until(() => new Promise(() => {}), { what: 'Godot', deadline: 50 })
  await expect(never).rejects.toThrow(/Godot.*never came back/)
  expect(performance.now() - startedAt).toBeLessThan(1_000)
})

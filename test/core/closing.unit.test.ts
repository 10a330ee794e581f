import { expect, test } from 'vitest'
import { createClosing } from '../../src/core/closing.ts'

test('closes in reverse, one after the other, once', async () => {
  const closing = createClosing()
  const log: string[] = []
  const entry = (name: string) => async () => {
    log.push(`${name} starts`)
    await Promise.resolve()
    log.push(`${name} ends`)
  }
  closing.add(entry('first'))
  const takeBack = closing.add(entry('taken back'))
  closing.add(entry('last'))
  takeBack()
  expect(closing.closed).toBe(false)
  const closed = closing.close()
  expect(closing.closed).toBe(true)
  expect(closing.close()).toBe(closed)
  await closed
  expect(log).toEqual(['last starts', 'last ends', 'first starts', 'first ends'])
})

test('one failure keeps nobody from closing, and is thrown as it is', async () => {
  const closing = createClosing()
  let closed = 0
  closing.add(() => void closed++)
  closing.add(() => {
    throw new Error('stuck')
  })
  closing.add(async () => void closed++)
  await expect(closing.close()).rejects.toThrow(/^stuck$/)
  expect(closed).toBe(2)
})

test('several failures come together', async () => {
  const closing = createClosing()
  closing.add(() => Promise.reject(new Error('a')))
  closing.add(() => Promise.reject(new Error('b')))
  await expect(closing.close()).rejects.toMatchObject({ errors: [{ message: 'b' }, { message: 'a' }] })
})

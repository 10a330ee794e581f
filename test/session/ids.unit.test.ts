import { expect, test } from 'vitest'
import { newSessionId } from '../../src/session/ids.ts'

test('ids are 24 random bytes, each another, over several pools', () => {
  const ids = Array.from({ length: 1_000 }, newSessionId)
  expect(new Set(ids).size).toBe(1_000)
  for (const id of ids) expect(id).toMatch(/^[\w-]{32}$/)
  const bytes = Buffer.concat(ids.map((id) => Buffer.from(id, 'base64url')))
  const ones = [...bytes].reduce((sum, byte) => sum + (byte.toString(2).match(/1/g)?.length ?? 0), 0)
  expect(ones / (bytes.length * 8)).toBeCloseTo(0.5, 1)
})

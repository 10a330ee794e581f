import { afterEach, expect, test } from 'vitest'
import { onRoleChange, processRole, setProcessRole } from '../../src/core/role.ts'

afterEach(() => setProcessRole('alone'))

test('listeners hear changes only, until they leave', () => {
  const heard: string[] = []
  const stop = onRoleChange(() => heard.push(processRole()))
  setProcessRole('alone')
  setProcessRole('primary')
  setProcessRole('primary')
  setProcessRole('worker')
  stop()
  setProcessRole('alone')
  expect(heard).toEqual(['primary', 'worker'])
})

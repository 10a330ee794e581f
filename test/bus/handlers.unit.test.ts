import { expect, onTestFinished, test } from 'vitest'
import { createShared } from '../../src/shared.ts'

test.each([undefined, null, 'a.js', {}])('%o is no handler, and is refused where it is given', (handler) => {
  const shared = createShared({ redis: 'redis://127.0.0.1:1', namespace: 'handlers' })
  onTestFinished(() => shared.close())
  const refused = { code: 'ERR_AS_ONE_OPTIONS', message: expect.stringContaining('must be a function, got') }
  expect(() => shared.bus.subscribe('changed', handler as never)).toThrow(expect.objectContaining(refused))
  expect(() => shared.bus.handle('stats', handler as never)).toThrow(expect.objectContaining(refused))
})

import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import { expect, test } from 'vitest'
import { settleAdopted } from '../../src/session/adopted.ts'

test('a request and a response that Express has adopted look the same afterwards', () => {
  const req = new IncomingMessage(new Socket())
  const res = new ServerResponse(req)
  const before = [snapshot(req), snapshot(res)]
  settleAdopted(req, res)
  for (const object of [req, res]) Object.setPrototypeOf(object, Object.create(Object.getPrototypeOf(object)))
  settleAdopted(req, res)
  expect([snapshot(req), snapshot(res)]).toEqual(before)
  expect(res.req).toBe(req)
})

test('whatever else it is given is left alone', () => {
  const odd = Object.freeze({
    get req() {
      return 1
    },
  })
  expect(() => settleAdopted({} as never, Object.create(odd) as never)).not.toThrow()
})

function snapshot(object: object): unknown {
  return Object.getOwnPropertyNames(object)
    .sort()
    .map((name) => [name, Object.getOwnPropertyDescriptor(object, name)])
}

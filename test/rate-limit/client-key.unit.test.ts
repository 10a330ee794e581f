import type { IncomingMessage } from 'node:http'
import fc from 'fast-check'
import { expect, test, vi } from 'vitest'
import { clientKey, ipKey } from '../../src/rate-limit/client-key.ts'
import { fcParams } from '../helpers/random.ts'

test.each([
  ['203.0.113.7', '203.0.113.7'],
  ['::ffff:203.0.113.7', '203.0.113.7'],
  ['::FFFF:cb00:7107', '203.0.113.7'],
  ['0:0:0:0:0:ffff:203.0.113.7', '203.0.113.7'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['2001:0DB8:0001:0002::1', '2001:db8:1:2::/64'],
  ['2001:db8::1', '2001:db8:0:0::/64'],
  ['2001:db8:1:2:3:4:192.0.2.1', '2001:db8:1:2::/64'],
  ['::1', '0:0:0:0::/64'],
  ['::', '0:0:0:0::/64'],
  ['::203.0.113.7', '0:0:0:0::/64'],
  ['1:ffff:203.0.113.7::', undefined],
  ['fe80::1%eth0', 'fe80:0:0:0::/64'],
  ['fe80::2%a\nb', 'fe80:0:0:0::/64'],
  ['203.0.113.7:1234', undefined],
  ['[2001:db8::1]', undefined],
  ['[2001:db8::1]:80', undefined],
  ['1.2.3', undefined],
  ['01.2.3.4', undefined],
  ['256.1.1.1', undefined],
  ['1.2.3.4%eth0', undefined],
  ['::ffff:256.1.1.1', undefined],
  ['2001:db8::1::2', undefined],
  ['12345::', undefined],
  ['unknown', undefined],
  ['_hidden', undefined],
  ['', undefined],
  [' 1.2.3.4', undefined],
  ['1.2.3.4, 5.6.7.8', undefined],
  [undefined, undefined],
  [['1.2.3.4'], undefined],
])('%s becomes %s', (address, key) => {
  if (key !== undefined) expect(ipKey(address)).toBe(key)
  else expect(() => ipKey(address)).toThrow(expect.objectContaining({ code: 'ERR_AS_ONE_RATE_LIMIT' }))
})

const groups = fc.array(fc.integer({ min: 0, max: 0xffff }), { minLength: 8, maxLength: 8 })

test('all spellings of an address and all addresses of a /64 have one key, two /64 have two', () => {
  fc.assert(
    fc.property(groups, groups, fc.boolean(), (one, two, upper) => {
      const spell = (address: number[], pad: number): string => {
        const text = address.map((group) => group.toString(16).padStart(pad, '0')).join(':')
        return upper ? text.toUpperCase() : text
      }
      const key = ipKey(spell(one, 1))
      expect(ipKey(spell(one, 4))).toBe(key)
      expect(ipKey(new URL(`http://[${spell(one, 1)}]`).hostname.slice(1, -1))).toBe(key)
      expect(ipKey(spell([...one.slice(0, 4), ...two.slice(4)], 1))).toBe(key)
      const sameNet = one.slice(0, 4).join() === two.slice(0, 4).join()
      expect(ipKey(spell(two, 1)) === key).toBe(sameNet)
    }),
    fcParams(),
  )
})

const request = (parts: object): IncomingMessage =>
  ({ headers: {}, socket: { remoteAddress: '192.0.2.1' }, ...parts }) as unknown as IncomingMessage
const express = (trust: unknown): object => ({ app: { get: () => trust } })

test("the framework's req.ip counts, else the socket's address", () => {
  expect(clientKey(request({}))).toBe('192.0.2.1')
  expect(clientKey(request({ ip: '198.51.100.9', ...express(1) }))).toBe('198.51.100.9')
})

test('a client cannot choose its address', () => {
  const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
  const forged = { headers: { 'x-forwarded-for': '1.2.3.4' } }
  expect(clientKey(request(forged))).toBe('192.0.2.1')
  expect(clientKey(request({ ...forged, ip: '192.0.2.1', ...express(false) }))).toBe('192.0.2.1')
  expect(warn).toHaveBeenCalledExactlyOnceWith(
    expect.stringContaining("app.set('trust proxy', 1)"),
    expect.objectContaining({ code: 'AS_ONE_FORWARDED_FOR' }),
  )
  warn.mockRestore()
  expect(() => clientKey(request({ ...forged, ip: '1.2.3.4', ...express(true) }))).toThrow(
    expect.objectContaining({
      code: 'ERR_AS_ONE_RATE_LIMIT',
      message: expect.stringContaining('trust proxy'),
    }),
  )
})

test('no address: an error that says why', () => {
  expect(() => clientKey(request({ socket: {} }))).toThrow('came over a unix socket, or the client has gone')
})

import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { OptionReader } from '../../src/core/options.ts'
import { createSealer, readEncryptionKeys, type Sealer } from '../../src/session/seal.ts'

const key = () => randomBytes(32)
function sealer(...encrypt: { kid: string; key: string | Uint8Array }[]): Sealer {
  return createSealer(readEncryptionKeys(new OptionReader('x', { encrypt })))
}

test('what is sealed opens again, and is another text each time', () => {
  const one = sealer({ kid: 'a', key: key() })
  const texts = [1, 2].map(() => one.seal('id', 'card', '"4111 ä"'))
  expect(texts[0]).not.toBe(texts[1])
  expect(texts[0]).toMatch(/^~a~[\w-]+$/)
  expect(texts.map((text) => one.open('id', 'card', text))).toEqual(['"4111 ä"', '"4111 ä"'])
})

test('the first key seals, all open; plain JSON from before is read', () => {
  const [old, next] = [
    { kid: 'old', key: key().toString('base64') },
    { kid: 'new', key: key().toString('hex') },
  ]
  const text = sealer(old).seal('id', 'f', '1')
  const both = sealer(next, old)
  expect([both.open('id', 'f', text), both.open('id', 'f', '{"a":1}')]).toEqual(['1', '{"a":1}'])
  expect(both.seal('id', 'f', '1')).toMatch(/^~new~/)
})

test('another session, field, key or a single other bit: refused, by name and without the text', () => {
  const one = sealer({ kid: 'k', key: key() })
  const text = one.seal('id', 'f', '"secret"')
  const flipped = `${text.slice(0, -3)}${text.at(-3) === 'A' ? 'B' : 'A'}${text.slice(-2)}`
  const cases: [Sealer, string, string, string, RegExp][] = [
    [one, 'other', 'f', text, /field 'f' cannot be decrypted/],
    [one, 'id', 'g', text, /field 'g' cannot be decrypted/],
    [one, 'id', 'f', flipped, /cannot be decrypted/],
    [one, 'id', 'f', text.slice(0, 12), /cannot be decrypted/],
    [one, 'id', 'f', '~k~', /cannot be decrypted/],
    [sealer({ kid: 'k', key: key() }), 'id', 'f', text, /cannot be decrypted/],
    [sealer({ kid: 'x', key: key() }), 'id', 'f', text, /key 'k', which the encrypt option does not name/],
    [createSealer(new Map()), 'id', 'f', text, /is encrypted, but the encrypt option gives no key/],
  ]
  for (const [each, id, field, sealed, message] of cases) {
    expect(() => each.open(id, field, sealed)).toThrow(message)
    expect(() => each.open(id, field, sealed)).toThrow(
      expect.objectContaining({ code: 'ERR_AS_ONE_SESSION' }) as Error,
    )
  }
})

test('bad keys are mistakes, told by name', () => {
  const mistakes = (encrypt: unknown): string => {
    const reader = new OptionReader('x', { encrypt })
    readEncryptionKeys(reader)
    try {
      reader.done()
    } catch (error) {
      return (error as Error).message
    }
    return ''
  }
  expect(mistakes([])).toContain('at least one key')
  expect(mistakes({ kid: 'a', key: 'short' })).toContain("needs 32 bytes for key 'a'")
  expect(mistakes({ kid: 'a', key: Buffer.alloc(31) })).toContain("needs 32 bytes for key 'a'")
  expect(mistakes({ kid: 'a~b', key: key() })).toContain('needs a kid of 1 to 32 letters')
  expect(mistakes('text')).toContain('needs a kid')
  const same = { kid: 'a', key: key() }
  expect(mistakes([same, same])).toContain("names key 'a' twice")
})

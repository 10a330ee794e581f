import { expect, test } from 'vitest'
import { nearest, OptionReader, show } from '../../src/core/options.ts'

function mistakesIn(read: (reader: OptionReader) => void, given: unknown, neighbours = {}): string {
  const reader = new OptionReader('thing', given, neighbours)
  read(reader)
  try {
    reader.done()
  } catch (error) {
    expect(error).toMatchObject({ name: 'SharedStateError', code: 'ERR_AS_ONE_OPTIONS' })
    return (error as Error).message
  }
  return ''
}

test('reads every kind, takes the fallback for what is absent or undefined', () => {
  const fn = (): void => {}
  const given = Object.freeze({
    s: 'text',
    b: false,
    i: 3,
    d: '5s',
    z: '64kb',
    o: 'b',
    f: fn,
    nothing: undefined,
  })
  const reader = new OptionReader('thing', given)
  expect(reader.string('s', undefined)).toBe('text')
  expect(reader.boolean('b', true)).toBe(false)
  expect(reader.integer('i', 1, 1, 3)).toBe(3)
  expect(reader.duration('d', 1)).toBe(5_000)
  expect(reader.size('z', 1)).toBe(65_536)
  expect(reader.oneOf('o', 'a', ['a', 'b'])).toBe('b')
  expect(reader.fn('f')).toBe(fn)
  expect(reader.string('nothing', 'fallback')).toBe('fallback')
  expect(reader.integer('absent', 7, 1, 9)).toBe(7)
  reader.done()
  new OptionReader('thing', undefined).done()
})

test('all mistakes stand in one error, nested ones with their path', () => {
  const message = mistakesIn(
    (reader) => {
      reader.string('name', undefined, /^[a-z]+$/, ' of small letters')
      reader.integer('workers', 1, 1, 8)
      reader.boolean('on', true)
      reader.oneOf('mode', 'a', ['a', 'b'])
      reader.size('memory', 1)
      reader.fn('hook')
      const drain = reader.nested('drain')
      drain.duration('delay', 0, 10)
      drain.close()
      reader.nested('health').close()
      reader.mistake('name', 'is taken')
    },
    {
      name: 'X1',
      workers: 9,
      on: 1,
      mode: 'c',
      memory: '1tb',
      hook: 'no',
      drain: { delay: '5ms', dealy: 1 },
      health: true,
    },
  )
  expect(message.split('; ')).toEqual([
    "thing: name must be a string of small letters, got 'X1'",
    'thing: workers must be a whole number from 1 to 8, got 9',
    'thing: on must be true or false, got 1',
    "thing: mode must be one of 'a', 'b', got 'c'",
    "thing: memory must be a size such as 65536, '64kb' or '512mb', got '1tb'",
    "thing: hook must be a function, got 'no'",
    "thing: drain.delay must be a duration such as 250, '5s' or '1m', at least 10 ms, got '5ms'",
    'thing: drain.dealy is not an option',
    'did you mean delay?',
    'thing: health must be an object, got true',
    'thing: name is taken',
  ])
})

test('unknown names: the neighbour first, then the nearest, else all that are known', () => {
  const read = (reader: OptionReader): void => {
    reader.integer('workers', 1, 1, 8)
    reader.duration('readyTimeout', 1)
  }
  expect(mistakesIn(read, { instances: 4 }, { instances: 'workers' })).toBe(
    'thing: instances is not an option; did you mean workers?',
  )
  expect(mistakesIn(read, { wokers: 4 })).toBe('thing: wokers is not an option; did you mean workers?')
  expect(mistakesIn(read, { readytimeout: 4 })).toContain('did you mean readyTimeout?')
  expect(mistakesIn(read, { colour: 4 })).toBe('thing: colour is not an option; known: workers, readyTimeout')
})

test.each([null, [], 'text', 5, () => {}])('%s is no options object', (given) => {
  expect(mistakesIn(() => {}, given)).toMatch(/^thing must be an object, got /)
})

test('null is a mistake, not an absence', () => {
  expect(mistakesIn((reader) => void reader.string('a', undefined), { a: null })).toBe(
    'thing: a must be a string, got null',
  )
})

test('names of Object.prototype are neither options nor suggestions', () => {
  const reader = new OptionReader('thing', JSON.parse('{"__proto__": 1, "constructor": 2}'), {})
  expect(reader.raw('toString')).toBeUndefined()
  reader.close()
  expect(() => reader.done()).toThrow(/__proto__ is not an option; .*constructor is not an option/s)
})

test('show is short, on one line, and names what it cannot print', () => {
  expect(show('a'.repeat(100))).toHaveLength(62)
  expect(show('line\nbreak\u001b[31m')).toBe("'line\\u000abreak\\u001b[31m'")
  expect(show([])).toBe('an array')
  expect(show({})).toBe('an object')
  expect(show(Object.create(null))).toBe('an object')
  expect(show(null)).toBe('null')
  expect(show(5n)).toBe('5')
  expect(show(Symbol('x'))).toBe('Symbol(x)')
  expect(show(function named() {})).toBe('a function (named)')
})

test('nearest gives up on names that are too far away', () => {
  expect(nearest('maxage', ['maxAge', 'maxMemory'])).toBe('maxAge')
  expect(nearest('delay', ['workers'])).toBeUndefined()
  expect(nearest('delay', [])).toBeUndefined()
})

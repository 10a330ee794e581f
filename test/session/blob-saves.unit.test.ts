import { AsyncLocalStorage } from 'node:async_hooks'
import { expect, test, vi } from 'vitest'
import type { SharedStateError } from '../../src/core/errors.ts'
import type { SessionRedis } from '../../src/session/availability.ts'
import { type BlobJob, type BlobOutcome, BlobSaves, parseBlob } from '../../src/session/blob-saves.ts'
import { fieldsOf } from '../../src/session/fields.ts'
import { changesBetween } from '../../src/session/merge.ts'

const savesOn = (redis: SessionRedis, timeoutMs = 500): BlobSaves =>
  new BlobSaves({ redis, timeoutMs, rules: () => 'mine' })

type Reply = { reply: unknown } | { error: unknown }

/** Answers each command when the test says so, and keeps what was to be stored. */
function fakeRedis() {
  const asked: { text: string; expected: string | undefined; answer(reply: Reply): void }[] = []
  const call = (
    _key: string,
    command: (client: unknown) => unknown,
    callback: (error: unknown, reply?: unknown) => void,
  ) => {
    const answer = (reply: Reply) => ('error' in reply ? callback(reply.error) : callback(null, reply.reply))
    command({
      set: async (_key: string, text: string) => asked.push({ text, expected: undefined, answer }),
      evalsha: async (_sha: string, _keys: number, _key: string, expected: string, text: string) =>
        asked.push({ text, expected, answer }),
    })
  }
  return { asked, redis: { call } as unknown as SessionRedis }
}

function saveOf(base: string, change: (data: Record<string, unknown>) => void): BlobJob & Settled {
  const { data, blob } = parseBlob(base)
  change(data as never)
  const fields = fieldsOf(data)
  let settle: (outcome: BlobOutcome) => void = () => {}
  const settled = new Promise<BlobOutcome>((resolve) => {
    settle = resolve
  })
  const cookie = JSON.stringify(data.cookie)
  const changes = changesBetween(blob.fields, fields)
  return { before: blob, changes, fields, cookie, seconds: 60, done: settle, settled }
}

interface Settled {
  settled: Promise<BlobOutcome>
}

const base = '{"cookie":{"path":"/"},"a":1,"b":1}'

test('a save that finds another string applies its changes to that, and only those', async () => {
  const { asked, redis } = fakeRedis()
  const save = saveOf(base, (data) => {
    data.a = 2
    delete data.b
    data.new = [{}]
  })
  savesOn(redis).add('key', save)
  expect(asked[0]).toMatchObject({
    expected: base,
    text: '{"cookie":{"path":"/"},"a":2,"new":[{}]}',
  })
  const theirs = '{"a":1,"b":1,"theirs":"x","cookie":{"path":"/"}}'
  asked[0]?.answer({ reply: theirs })
  expect(asked[1]?.expected).toBe(theirs)
  expect(JSON.parse(asked[1]?.text ?? '')).toEqual({ cookie: { path: '/' }, a: 2, theirs: 'x', new: [{}] })
  asked[1]?.answer({ reply: 1 })
  const { blob, error } = await save.settled
  expect([blob?.text, error]).toEqual([asked[1]?.text, undefined])
})

test('what comes while a session is being saved is written together, on top of that', async () => {
  const { asked, redis } = fakeRedis()
  const saves = savesOn(redis)
  const all = ['one', 'two', 'three'].map((key) => saveOf(base, (data) => Object.assign(data, { [key]: 1 })))
  for (const save of all) saves.add('key', save)
  const elsewhere = saveOf(base, (data) => Object.assign(data, { other: 1 }))
  saves.add('another key', elsewhere)
  expect(asked).toHaveLength(2)
  asked[0]?.answer({ reply: 1 })
  expect(asked).toHaveLength(3)
  expect(asked[2]?.expected).toBe(asked[0]?.text)
  expect(JSON.parse(asked[2]?.text ?? '')).toMatchObject({ a: 1, one: 1, two: 1, three: 1 })
  asked[2]?.answer({ reply: 1 })
  const texts = await Promise.all(all.map(async ({ settled }) => (await settled).blob?.text))
  expect(texts).toEqual([asked[0]?.text, asked[2]?.text, asked[2]?.text])
})

test('gone is gone for each; an error is for all who wait', async () => {
  const { asked, redis } = fakeRedis()
  const saves = savesOn(redis)
  const make = () => saveOf(base, (data) => Object.assign(data, { x: 1 }))
  const [first, second, third] = [make(), make(), make()]
  saves.add('key', first)
  saves.add('key', second)
  asked[0]?.answer({ reply: 0 })
  expect(await first.settled).toEqual({})
  expect(asked[1]?.expected).toBe(base)
  saves.add('key', third)
  asked[1]?.answer({ error: 'no answer' })
  expect(await Promise.all([second.settled, third.settled])).toEqual([
    { error: 'no answer' },
    { error: 'no answer' },
  ])
  expect(asked).toHaveLength(2)
})

test('a session that others keep changing: an error in time, for which 503 is the answer', async () => {
  const { asked, redis } = fakeRedis()
  const save = saveOf(base, (data) => Object.assign(data, { x: 1 }))
  vi.useFakeTimers({ toFake: ['performance'] })
  try {
    savesOn(redis, 30).add('key', save)
    for (let i = 0; i < 5; i++) asked[i]?.answer({ reply: `{"cookie":{},"i":${i}}` })
    expect(asked).toHaveLength(6)
    vi.advanceTimersByTime(31)
    asked[5]?.answer({ reply: '{"cookie":{}}' })
    expect(asked).toHaveLength(6)
  } finally {
    vi.useRealTimers()
  }
  const error = (await save.settled).error as SharedStateError & { status: number }
  expect([error.code, error.status]).toEqual(['ERR_AS_ONE_SESSION', 503])
})

test('a corrupted string in between is an error, and is left alone', async () => {
  for (const corrupted of ['{', '[]', '"text"', 'null', '']) {
    const { asked, redis } = fakeRedis()
    const save = saveOf(base, (data) => Object.assign(data, { x: 1 }))
    savesOn(redis).add('key', save)
    asked[0]?.answer({ reply: corrupted })
    expect(((await save.settled).error as Error).message).toContain('the stored session is corrupted')
    expect(asked).toHaveLength(1)
  }
})

test("each save is settled in its caller's async context", async () => {
  const { asked, redis } = fakeRedis()
  const saves = savesOn(redis)
  const context = new AsyncLocalStorage<string>()
  const seen: unknown[] = []
  for (const name of ['first', 'second']) {
    context.run(name, () =>
      saves.add('key', { ...saveOf(base, () => {}), done: () => seen.push(context.getStore()) }),
    )
  }
  context.run('first', () => asked[0]?.answer({ reply: 1 }))
  context.run('first', () => asked[1]?.answer({ reply: 1 }))
  await new Promise(setImmediate)
  expect(seen).toEqual(['first', 'second'])
})

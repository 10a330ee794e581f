import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { encodeControl, encodeMessages, Kind, stampHub } from '../../src/bus/frame.ts'
import { type Bus, createBus, type MessageMeta } from '../../src/bus/index.ts'
import { channels } from '../../src/core/channels.ts'
import { createKeys } from '../../src/core/keys.ts'
import { createRedisSource } from '../../src/redis/source.ts'
import { long } from '../helpers/long.ts'
import { fileRng, type Rng } from '../helpers/random.ts'
import { testNamespace } from '../helpers/redis.ts'
import { until } from '../helpers/until.ts'

/** The Redis that a suite runs on. */
export interface BusSuiteRedis {
  readonly url: string
  /** As somebody does who is no part of us. */
  publish(channel: string, message: Buffer): Promise<unknown>
}

/** A bus in a process of its own, as far as the others can tell: processes of one `machine` share a hub. */
export function openBus(url: string, namespace: string, machine: string): Bus {
  const source = createRedisSource(url, { name: 'test', env: {}, cwd: '/', id: `${machine} ${url}` })
  const bus = createBus({ keys: createKeys(namespace), source })
  onTestFinished(() => bus.close())
  return bus
}

/** Payload, topic, publisher and sequence number of all that a bus has heard. */
export interface Ear {
  readonly heard: { payload: unknown; meta: MessageMeta }[]
  payloads(): unknown[]
}

/** Subscribes and waits until messages from everywhere arrive. */
export async function listen(bus: Bus, topicOrPattern: string): Promise<Ear> {
  const heard: Ear['heard'] = []
  await bus.subscribe(topicOrPattern, (payload, meta) => void heard.push({ payload, meta })).ready
  return { heard, payloads: () => heard.map(({ payload }) => payload) }
}

/** What every bus promises, whatever Redis it is on. Run in a file that has that Redis. */
export function busSuite(redis: () => BusSuiteRedis): void {
  const machines = (...names: string[]): Bus[] => {
    const namespace = testNamespace()
    return names.map((machine) => openBus(redis().url, namespace, machine))
  }

  test('every message reaches every subscriber exactly once, in order, on all machines', async () => {
    const buses = machines('a', 'a', 'b', 'b', 'c')
    const ears = await Promise.all(buses.flatMap((bus) => [listen(bus, 'news'), listen(bus, 'news')]))
    const count = 200
    for (let at = 0; at < count; at++) {
      for (const bus of buses) bus.broadcast('news', { from: bus.id, at })
      if (at % 10 === 0) await nextTurn()
    }
    const total = count * buses.length
    await until(() => ears.every(({ heard }) => heard.length >= total), { what: 'all messages everywhere' })
    for (const [index, { heard }] of ears.entries()) {
      expect(heard).toHaveLength(total)
      for (const { id } of buses) {
        const own = heard.filter(({ meta }) => meta.from === id)
        expect(own.map(({ payload }) => payload)).toEqual(
          Array.from({ length: count }, (_, at) => ({ from: id, at })),
        )
        expect(own.map(({ meta }) => meta.sequence)).toEqual(Array.from({ length: count }, (_, at) => at + 1))
        expect(own.every(({ meta }) => meta.self === (id === buses[Math.floor(index / 2)]!.id))).toBe(true)
      }
    }
  })

  test('meta says where a message comes from', async () => {
    const [one, other] = machines('a', 'b') as [Bus, Bus]
    const ear = await listen(one, '**')
    await other.subscribe('x', () => {}).ready
    const before = Date.now()
    other.broadcast('user.7.name')
    await until(() => ear.heard.length === 1, { what: 'the message' })
    const [{ payload, meta }] = ear.heard as [Ear['heard'][number]]
    expect(payload).toBeUndefined()
    expect(meta).toEqual({
      topic: 'user.7.name',
      from: other.id,
      sequence: 1,
      at: expect.any(Number),
      self: false,
    })
    expect(meta.at).toBeGreaterThanOrEqual(before)
    expect(meta.at).toBeLessThanOrEqual(Date.now())
  })

  test('the sender hears itself, never inside its own call', async () => {
    const [bus] = machines('a') as [Bus]
    const { heard } = await listen(bus, 'news')
    bus.broadcast('news', 1)
    const published = bus.publish('news', 2)
    expect(heard).toEqual([])
    await published
    await until(() => heard.length === 2, { what: 'both' })
    expect(heard.map(({ payload, meta }) => [payload, meta.self])).toEqual([
      [1, true],
      [2, true],
    ])
  })

  test('self: false leaves out the sender alone, and keeps the order of the others', async () => {
    const [sender, neighbour, far] = machines('a', 'a', 'b') as [Bus, Bus, Bus]
    const [own, ...others] = await Promise.all([sender, neighbour, far].map((bus) => listen(bus, 'news')))
    for (let at = 0; at < 50; at++) void sender.publish('news', at, { self: at % 3 !== 0 })
    await until(() => others.every(({ heard }) => heard.length >= 50), { what: 'all messages' })
    for (const ear of others) expect(ear.payloads()).toEqual(Array.from({ length: 50 }, (_, at) => at))
    await until(() => own!.heard.length >= 33, { what: 'own messages' })
    expect(own!.payloads()).toEqual(Array.from({ length: 50 }, (_, at) => at).filter((at) => at % 3 !== 0))
  })

  test('receipts count the other receivers of this machine and say that Redis has it', async () => {
    const [one, two, three, far] = machines('a', 'a', 'a', 'b') as [Bus, Bus, Bus, Bus]
    await Promise.all([one, two, three, far].map((bus) => bus.subscribe('x', () => {}).ready))
    expect(await one.publish('news', 1)).toEqual({ local: 2, remote: 'sent' })
    expect(await far.publish('news', 1, { self: false })).toEqual({ local: 0, remote: 'sent' })
    const many = await Promise.all(Array.from({ length: 300 }, (_, at) => two.publish('news', at)))
    expect(many.every(({ local, remote }) => local === 2 && remote === 'sent')).toBe(true)
  })

  test('patterns and topics, until they are taken back', async () => {
    const [one, other] = machines('a', 'b') as [Bus, Bus]
    const heard: string[] = []
    const subscriptions = ['user.*', 'user.**', 'user.7', 'user.7'].map((pattern) =>
      one.subscribe(pattern, (payload) => void heard.push(`${pattern} ${payload}`)),
    )
    const last = await listen(one, 'last')
    other.broadcast('user.7', 1)
    other.broadcast('user.7.name', 2)
    other.broadcast('users', 3)
    other.broadcast('last')
    await until(() => last.heard.length === 1, { what: 'the last message' })
    expect(heard).toEqual(['user.* 1', 'user.** 1', 'user.7 1', 'user.7 1', 'user.** 2'])
    for (const { unsubscribe } of subscriptions.slice(1)) {
      unsubscribe()
      unsubscribe()
    }
    other.broadcast('user.7', 4)
    other.broadcast('last')
    await until(() => last.heard.length === 2, { what: 'the last message' })
    expect(heard.slice(5)).toEqual(['user.* 4'])
  })

  test('every kind of payload arrives as it was sent, here and elsewhere', async () => {
    const [one, neighbour, far] = machines('a', 'a', 'b') as [Bus, Bus, Bus]
    const ears = await Promise.all([one, neighbour, far].map((bus) => listen(bus, 'news')))
    const payloads: unknown[] = [
      null,
      undefined,
      Number.NaN,
      '\ud800',
      { cmd: 'NODE_x' },
      { $: 'x' },
      Buffer.from([0, 255]),
      new Map([[1n, new Set(['a'])]]),
      new Date(7),
      'x'.repeat(1 << (20 - 1)),
      [{ deep: { deeper: [undefined] } }],
    ]
    for (const payload of payloads) one.broadcast('news', payload)
    one.broadcast('news', JSON.parse('{"__proto__":{"polluted":1},"a":1}'))
    for (const ear of ears) {
      await until(() => ear.heard.length > payloads.length, { what: 'all payloads' })
      expect(ear.payloads().slice(0, -1)).toEqual(payloads)
      expect(Object.keys(ear.payloads().at(-1) as object)).toEqual(['a'])
    }
  })

  test('what cannot be sent is refused at once, with a code, and the next message goes on', async () => {
    const [one, other] = machines('a', 'b') as [Bus, Bus]
    const ear = await listen(other, '**')
    const code = (name: string) => expect.objectContaining({ code: `ERR_AS_ONE_${name}` })
    const limit = 1 << 20
    expect(() => one.broadcast('news', 'x'.repeat(limit - 1))).toThrow(code('PAYLOAD')) // and two quotes
    expect(() => one.broadcast('news', 'ä'.repeat(limit / 2))).toThrow(/bytes, over maxMessageBytes 1048576/)
    expect(() => one.broadcast('news', () => {})).toThrow(code('PAYLOAD'))
    expect(() => one.broadcast('', 1)).toThrow(code('OPTIONS'))
    expect(() => one.broadcast('a.*', 1)).toThrow(code('OPTIONS'))
    await expect(one.publish('news', Symbol('x'))).rejects.toThrow(code('PAYLOAD'))
    expect(() => one.subscribe('a*', () => {})).toThrow(code('OPTIONS'))
    one.broadcast('news', 'x'.repeat(limit - 2))
    one.broadcast('news', 'last')
    await until(() => ear.heard.length === 2, { what: 'both' })
    expect(ear.heard.map(({ meta }) => meta.sequence)).toEqual([1, 2])
    expect((ear.payloads()[0] as string).length).toBe(limit - 2)
    expect(ear.payloads()[1]).toBe('last')
  })

  test('a handler that throws or rejects harms nobody and is told of', async () => {
    const [one, other] = machines('a', 'b') as [Bus, Bus]
    const failed: [string, string, number][] = []
    one.on('handler-error', (error, meta) =>
      failed.push([(error as Error).message, meta.topic, meta.sequence]),
    )
    one.subscribe('news', () => {
      throw new Error('thrown')
    })
    one.subscribe('news', async () => {
      throw new Error('rejected')
    })
    // Promises of other libraries are no Promise either.
    class Thenable {
      // biome-ignore lint/suspicious/noThenProperty: it shall be one
      then(_resolve: unknown, reject: (error: Error) => void): void {
        reject(new Error('thenable'))
      }
    }
    one.subscribe('news', () => new Thenable())
    one.subscribe('news', () => new Promise(() => {}))
    const ear = await listen(one, 'news')
    other.broadcast('news', 1)
    one.broadcast('news', 2)
    await until(() => ear.heard.length === 2 && failed.length === 6, {
      what: 'both messages and six failures',
    })
    expect(failed.map(([message]) => message).sort()).toEqual(
      ['rejected', 'rejected', 'thenable', 'thenable', 'thrown', 'thrown'].sort(),
    )
    expect(failed.every(([, topic, sequence]) => topic === 'news' && sequence === 1)).toBe(true)
  })

  test('without a listener a failing handler is a process warning', async () => {
    const [bus] = machines('a') as [Bus]
    const warnings: Error[] = []
    const onWarning = (warning: Error): void => void warnings.push(warning)
    process.on('warning', onWarning)
    onTestFinished(() => void process.off('warning', onWarning))
    bus.subscribe('news', () => {
      throw new Error('oops')
    })
    bus.broadcast('news')
    await until(() => warnings.length > 0, { what: 'the warning' })
    expect(warnings[0]).toMatchObject({
      code: 'AS_ONE_HANDLER_ERROR',
      message: "a receiver of 'news' failed: oops",
    })
  })

  test('a handler may publish, subscribe and unsubscribe', async () => {
    const [one, other] = machines('a', 'b') as [Bus, Bus]
    const answers = await listen(other, 'answer')
    const { unsubscribe, ready } = one.subscribe('ask', (payload) => {
      one.broadcast('answer', payload)
      if (payload === 2) unsubscribe()
    })
    await ready
    for (const at of [1, 2, 3]) other.broadcast('ask', at)
    other.broadcast('answer', 'end')
    await until(() => answers.heard.length === 3, { what: 'two answers and the end' })
    expect(answers.payloads().filter((answer) => answer !== 'end')).toEqual([1, 2])
  })

  test('signals end subscriptions and waits', async () => {
    const [one, other] = machines('a', 'b') as [Bus, Bus]
    const heard: unknown[] = []
    const controller = new AbortController()
    await one.subscribe('news', (payload) => void heard.push(payload), { signal: controller.signal }).ready
    const ear = await listen(one, 'news')
    other.broadcast('news', 1)
    await until(() => heard.length === 1, { what: 'the first message' })
    controller.abort()
    other.broadcast('news', 2)
    await until(() => ear.heard.length === 2, { what: 'the second message' })
    expect(heard).toEqual([1])

    const late = one.subscribe('news', (payload) => void heard.push(payload), { signal: controller.signal })
    await expect(late.ready).rejects.toMatchObject({ code: 'ERR_AS_ONE_ABORTED' })
    const refused = one.publish('news', 'never sent', { signal: controller.signal })
    await expect(refused).rejects.toMatchObject({ code: 'ERR_AS_ONE_ABORTED' })
    const during = new AbortController()
    const waiting = one.publish('news', 3, { signal: during.signal })
    during.abort()
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_AS_ONE_ABORTED' })
    await until(() => ear.heard.length === 3, { what: 'the message whose wait was aborted' })
    expect(ear.payloads()).toEqual([1, 2, 3])
    expect(heard).toEqual([1])
  })

  test('members join and leave: at once on this machine, in a moment elsewhere', async () => {
    const namespace = testNamespace()
    const open = (machine: string): Bus => openBus(redis().url, namespace, machine)
    const [one, far] = [open('a'), open('b')]
    const events: string[] = []
    one.on('join', ({ id }) => events.push(`join ${id}`))
    one.on('leave', ({ id }) => events.push(`leave ${id}`))
    await Promise.all([one, far].map((bus) => bus.subscribe('x', () => {}).ready))
    const ids = (bus: Bus): string[] =>
      bus
        .members()
        .map(({ id }) => id)
        .sort()
    const expectMembers = (...buses: Bus[]): Promise<unknown> =>
      until(
        () =>
          buses.every(
            (bus) =>
              ids(bus).join() ===
              buses
                .map(({ id }) => id)
                .sort()
                .join(),
          ),
        {
          what: `${buses.length} members everywhere`,
          deadline: 4_500, // by word of it: with the next heartbeat, every 5 s, it would come by itself
        },
      )
    await expectMembers(one, far)
    expect(one.members().find(({ self }) => self)).toMatchObject({
      id: one.id,
      pid: process.pid,
      index: undefined,
    })
    const neighbour = open('a')
    neighbour.start()
    expect(ids(one)).toContain(neighbour.id) // same machine: before anything else happens
    const third = open('c')
    third.start()
    await expectMembers(one, far, neighbour, third)
    await neighbour.close()
    expect(ids(one)).not.toContain(neighbour.id)
    await Promise.all([third.close(), expectMembers(one, far)])
    expect(events.sort()).toEqual(
      [
        ...[one, far, neighbour, third].map(({ id }) => `join ${id}`),
        ...[neighbour, third].map(({ id }) => `leave ${id}`),
      ].sort(),
    )
  })

  test('close() sends what is queued, answers every receipt, and then refuses', async () => {
    const [one, shared, far] = machines('a', 'a', 'b') as [Bus, Bus, Bus]
    const ears = await Promise.all([shared, far].map((bus) => listen(bus, 'news')))
    await one.subscribe('x', () => {}).ready
    for (const closing of [one, shared]) {
      for (let at = 0; at < 500; at++) closing.broadcast('news', at)
      const receipt = closing.publish('news', 'last')
      const waiting = closing.subscribe('y', () => {}).ready
      const closed = closing.close()
      expect(closing.close()).toBe(closed)
      await closed
      await waiting
      expect((await receipt).remote).toBe('sent')
      expect(() => closing.broadcast('news')).toThrow(expect.objectContaining({ code: 'ERR_AS_ONE_CLOSED' }))
      expect(() => closing.subscribe('news', () => {})).toThrow(/closed/)
      await expect(closing.publish('news')).rejects.toMatchObject({ code: 'ERR_AS_ONE_CLOSED' })
    }
    await until(() => ears[1]!.heard.length >= 1_002, { what: 'all messages on the other machine' })
    const all = [...Array.from({ length: 500 }, (_, at) => at), 'last']
    expect(ears[1]!.payloads()).toEqual([...all, ...all])
  })

  test('close() before the first use, and while joining, leaves nothing', async () => {
    const [unused, early] = machines('a', 'b') as [Bus, Bus]
    await unused.close()
    const { ready } = early.subscribe('news', () => {})
    const refused = expect(ready).rejects.toMatchObject({ code: 'ERR_AS_ONE_CLOSED' })
    await early.close()
    await refused
  })

  test('namespaces do not hear each other', async () => {
    const [one, twin] = machines('a', 'b') as [Bus, Bus]
    const [other] = machines('a') as [Bus]
    const ears = await Promise.all([twin, other].map((bus) => listen(bus, '**')))
    one.broadcast('news', 1)
    other.broadcast('news', 2)
    await until(() => ears.every(({ heard }) => heard.length === 1), { what: 'one message each' })
    await one.publish('news', 3)
    await until(() => ears[0]!.heard.length === 2, { what: 'the second message' })
    expect(ears.map((ear) => ear.payloads())).toEqual([[1, 3], [2]])
    expect(other.members().map(({ id }) => id)).toEqual([other.id])
  })

  describe('what a stranger publishes', () => {
    test('costs a message, never the process, and never reaches a handler malformed', async () => {
      const namespace = testNamespace()
      const [one, other] = ['a', 'b'].map((machine) => openBus(redis().url, namespace, machine)) as [Bus, Bus]
      const rng = fileRng().fork('garbage')
      const reasons: string[] = []
      const onBus = (message: unknown): void => {
        const { event, reason } = message as { event: string; reason: string }
        if (event === 'bad-frame') reasons.push(reason)
      }
      channels.bus.subscribe(onBus)
      onTestFinished(() => void channels.bus.unsubscribe(onBus))
      const failed: unknown[] = []
      one.on('handler-error', (error) => failed.push(error))
      const ear = await listen(one, '**')
      await other.subscribe('x', () => {}).ready
      other.broadcast('news', 'before')
      const channel = createKeys(namespace).prefix('bus')
      for (const message of forgeries(rng, one.id, other.id)) await redis().publish(channel, message)
      other.broadcast('news', 'after')
      await until(() => ear.payloads().includes('after'), { what: 'the message behind the garbage' })
      expect(reasons.length).toBeGreaterThan(20)
      for (const { payload, meta } of ear.heard) {
        expect(typeof meta.topic).toBe('string')
        expect(Number.isSafeInteger(meta.sequence)).toBe(true)
        expect(JSON.stringify(payload) ?? '').not.toMatch(/malformed|polluted/)
      }
      expect(ear.payloads().filter((payload) => payload !== 'well formed')).toEqual(['before', 'after'])
      for (const error of failed) expect(error).toMatchObject({ code: 'ERR_AS_ONE_PAYLOAD' })
      expect(
        one.members().every(({ id, pid }) => /^[0-9a-f]{16}$/.test(id) && Number.isSafeInteger(pid)),
      ).toBe(true)
    })
  })

  test('random histories: who is ready gets everything once, in order', async () => {
    const rng = fileRng().fork('histories')
    for (let round = 0; round < long(3, 60); round++) await randomHistory(redis().url, testNamespace(), rng)
  })
}

/** Frames and bytes that no hub of ours has written. */
function forgeries(rng: Rng, victim: string, publisher: string): Buffer[] {
  const stranger = (): Buffer => rng.bytes(8)
  const frame = (body: string, over: Partial<Parameters<typeof encodeMessages>[1]> = {}): Buffer => {
    const made = encodeMessages(body, {
      receipt: 0,
      count: 1,
      publisher: stranger(),
      firstSequence: 1,
      sentAt: 0,
      topics: ['news'],
      ...over,
    })
    stampHub(made, stranger())
    return made
  }
  const good = '[0,0,"well formed"]'
  const bodies = [
    '',
    'malformed',
    'null',
    '{"malformed":1}',
    '["malformed"]',
    '["malformed",0]',
    '[0,0,"malformed","more"]',
    '[0,0,"malformed",0,0,"malformed"]',
    ...['5', '-1', '0.5', '"news"', '"0"', '"length"', 'null'].map((place) => `[${place},0,"malformed"]`),
    '[{"a":1},0,"malformed"]',
    '[0,7,"malformed"]',
    '[0,"0","malformed"]',
    '[0,1,{"$":"no such","v":"malformed"}]',
    '[0,1,{"$":"map","v":"malformed"}]',
    `[0,0,${'['.repeat(10_000)}"malformed"${']'.repeat(10_000)}]`,
    '[0,0,"malformed"',
  ]
  const numbers = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -5, 0, 0.5, 2 ** 60]
  const forged = [
    frame(good),
    frame('[0,0,{"__proto__":{"polluted":1}}]', { count: 2 }),
    ...bodies.map((body) => frame(body)),
    ...[null, 'news', {}, [0], [['news']], []].map((topics) =>
      frame('[0,0,"malformed"]', { topics: topics as never }),
    ),
    ...numbers.map((firstSequence) => frame('[0,0,"malformed"]', { firstSequence })),
    ...[0, 2, 0xffff_ffff].map((count) => frame('[0,0,"malformed"]', { count })),
    // In the name of one who lives: the receiver itself, and nonsense from the publisher that must not silence it.
    frame('[0,0,"malformed"]', { publisher: Buffer.from(victim, 'hex') }),
    frame('malformed', { publisher: Buffer.from(publisher, 'hex'), firstSequence: 1_000 }),
    frame('["malformed"]', { publisher: Buffer.from(publisher, 'hex'), firstSequence: 2, count: 5 }),
    frame(good, { publisher: Buffer.from(publisher, 'hex'), firstSequence: Number.POSITIVE_INFINITY }),
    ...Object.values(Kind).map((kind) => encodeControl(kind, { malformed: 1 })),
    ...[null, [], 5, 'x', { hub: 5 }, { hub: 'f'.repeat(16), members: 'malformed' }].flatMap((value) => [
      encodeControl(Kind.roster, value),
      encodeControl(Kind.who, value),
    ]),
    encodeControl(Kind.roster, {
      hub: 'f'.repeat(16),
      members: [null, { id: 'malformed' }, { id: 'e'.repeat(16), pid: 'x' }],
    }),
    Buffer.alloc(0),
    Buffer.from('malformed'),
    Buffer.concat([frame(good), Buffer.from([1, 2, 3])]),
    Buffer.from('ffffffff0101000000', 'hex'),
    Buffer.alloc(4),
  ]
  const flipped = Array.from({ length: 100 }, () => {
    const bytes = Buffer.from(
      rng.pick([
        frame('[0,0,"well formed"]'),
        encodeControl(Kind.roster, { hub: 'd'.repeat(16), members: [] }),
      ]),
    )
    // Never in the body: a letter changed there is a well formed message.
    for (let at = 0; at < 3; at++) bytes[rng.int(0, 15)] = rng.int(0, 255)
    return bytes
  })
  return rng.shuffle([...forged, ...flipped, ...Array.from({ length: 50 }, () => rng.bytes(rng.int(1, 200)))])
}

interface Listener {
  bus: Bus
  topic: string
  heard: { from: string; number: number }[]
  /** Messages accepted before this one may be missing. */
  since: number
  until: number
}

/** Processes come and go, subscribe, unsubscribe and publish at random; then all that was promised is counted. */
async function randomHistory(url: string, namespace: string, rng: Rng): Promise<void> {
  const topics = ['a', 'b', 'c']
  const accepted: { from: string; topic: string; self: boolean }[] = []
  const listeners: Listener[] = []
  const live = new Set<Bus>()
  const open = (): void => {
    const bus = openBus(url, namespace, `machine ${rng.int(1, 3)}`)
    bus.start()
    live.add(bus)
  }
  const subscribe = async (bus: Bus): Promise<void> => {
    const topic = rng.pick(topics)
    const heard: Listener['heard'] = []
    const { ready, unsubscribe } = bus.subscribe(
      topic,
      (payload, { from }) => void heard.push({ from, number: payload as number }),
    )
    await ready
    const listener: Listener = { bus, topic, heard, since: accepted.length, until: Number.POSITIVE_INFINITY }
    listeners.push(listener)
    if (rng.int(0, 3) > 0) return
    await nextTurn()
    unsubscribe()
    listener.until = accepted.length
  }
  for (let at = 0; at < 3; at++) open()
  const steps = long(300, 1_000)
  for (let step = 0; step < steps; step++) {
    const bus = rng.pick([...live])
    const dice = rng.int(0, 99)
    if (dice < 80) {
      const topic = rng.pick(topics)
      const self = rng.int(0, 4) > 0
      const number = accepted.length
      if (self) bus.broadcast(topic, number)
      else void bus.publish(topic, number, { self })
      accepted.push({ from: bus.id, topic, self })
    } else if (dice < 88) await subscribe(bus)
    else if (dice < 90 && live.size < 8) open()
    else if (dice < 92 && live.size > 2) {
      live.delete(bus)
      for (const listener of listeners)
        if (listener.bus === bus) listener.until = Math.min(listener.until, accepted.length)
      await bus.close()
    } else await nextTurn()
  }
  const staying = listeners.filter(({ until: end }) => end === Number.POSITIVE_INFINITY)
  const wanted = ({ bus, topic, since }: Listener): number[] =>
    accepted.flatMap((message, number) =>
      number >= since && message.topic === topic && (message.self || message.from !== bus.id) ? [number] : [],
    )
  await until(
    () =>
      staying.every((listener) =>
        wanted(listener).every((number) => listener.heard.some((one) => one.number === number)),
      ),
    { what: 'every subscriber to have every message', deadline: 10_000, every: 50 },
  )
  for (const listener of listeners) {
    const numbers = listener.heard.map(({ number }) => number)
    expect(new Set(numbers).size, 'once').toBe(numbers.length)
    for (const { from, number } of listener.heard) {
      expect(accepted[number]).toMatchObject({ from, topic: listener.topic })
      expect(accepted[number]!.self || from !== listener.bus.id, 'not to oneself').toBe(true)
    }
    for (const from of new Set(listener.heard.map((one) => one.from))) {
      const order = listener.heard.filter((one) => one.from === from).map(({ number }) => number)
      expect(order, 'in order').toEqual([...order].sort((a, b) => a - b))
    }
  }
  await Promise.all([...live].map((bus) => bus.close()))
}

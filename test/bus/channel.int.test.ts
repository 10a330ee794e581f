import type { Socket } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import {
  type Announcement,
  joinOverChannel,
  openAnnouncedChannel,
  serveChannel,
  takeChannel,
} from '../../src/bus/channel.ts'
import {
  decodeControl,
  encodeControl,
  FRAME_VERSION,
  Kind,
  kindOf,
  MAX_FRAME_BYTES,
  messagesBody,
} from '../../src/bus/frame.ts'
import { createHub, type Hub, type HubPort, type HubSeat } from '../../src/bus/hub.ts'
import { type Bus, createBus } from '../../src/bus/index.ts'
import type { MemberRecord } from '../../src/bus/members.ts'
import type { Positions } from '../../src/bus/positions.ts'
import { channels } from '../../src/core/channels.ts'
import { createKeys } from '../../src/core/keys.ts'
import { createRedisSource } from '../../src/redis/source.ts'
import { fileRng } from '../helpers/random.ts'
import { sharedRedis, startRedis, testNamespace } from '../helpers/redis.ts'
import { runningClock } from '../helpers/running-clock.ts'
import { startProxy } from '../helpers/tcp-proxy.ts'
import { until } from '../helpers/until.ts'
import { listen } from '../suites/bus-suite.ts'
import {
  announce,
  announcement,
  framesFrom,
  liveBytes,
  messageAt,
  messages,
  socketPair,
} from './channel-pair.ts'

const clock = runningClock()

const member: MemberRecord = { id: 'a'.repeat(16), machine: 'm', pid: 1, index: undefined }
const hello = (over: object = {}): Buffer => encodeControl(Kind.hello, { ...announcement, member, ...over })

/** A hub that only notes what it is asked. */
function noteHub(): {
  hub: Hub
  joined: { member: MemberRecord; port: HubPort; sent: Buffer[]; left: boolean }[]
} {
  const joined: ReturnType<typeof noteHub>['joined'] = []
  const hub = {
    id: 'b'.repeat(16),
    join(who: MemberRecord, port: HubPort) {
      const seat = { member: who, port, sent: [] as Buffer[], left: false }
      joined.push(seat)
      return {
        send(frame: Buffer) {
          seat.sent.push(Buffer.from(frame))
          return true
        },
        async leave() {
          seat.left = true
        },
      }
    },
  }
  return { hub: hub as unknown as Hub, joined }
}

function notePort(): { port: HubPort; heard: unknown[] } {
  const heard: unknown[] = []
  const port = {
    deliver(frame: Buffer) {
      heard.push(messagesBody(frame))
      return true
    },
    members: (list: readonly MemberRecord[]) => heard.push({ members: list.map(({ id }) => id) }),
    remote: (up: boolean) => heard.push({ remote: up }),
    receipt: (id: number, receipt: unknown) => heard.push({ id, receipt }),
    positions: (positions: Positions) => heard.push({ positions }),
  }
  return { port: port as unknown as HubPort, heard }
}

const join = (socket: Socket, port: HubPort, onLost: (reason: string) => void = () => {}): Promise<HubSeat> =>
  joinOverChannel({ socket, announcement }, member, port, onLost)

const closed = (socket: Socket): Promise<unknown> =>
  until(() => socket.destroyed || socket.readableEnded, { what: 'the socket to close' })

test('a worker joins, and what is said goes both ways in order', async () => {
  const { worker, primary } = await socketPair()
  const { hub, joined } = noteHub()
  const { port, heard } = notePort()
  serveChannel(primary, hub, announcement)
  const seat = await join(worker, port)
  expect(joined[0]!.member).toEqual({ ...member, index: 3 })
  const primaryPort = joined[0]!.port
  primaryPort.members([member])
  primaryPort.deliver(messages('one', 'two'))
  primaryPort.remote(true)
  primaryPort.receipt(7, { local: 1, remote: 'sent' })
  primaryPort.deliver(messages('three'))
  expect(seat.send(messages('up'))).toBe(true)
  await until(() => heard.length === 5 && joined[0]!.sent.length === 1, { what: 'everything to arrive' })
  expect(heard).toEqual([
    { members: [member.id] },
    '["news",0,"one","news",0,"two"]',
    { remote: true },
    { id: 7, receipt: { local: 1, remote: 'sent' } },
    '["news",0,"three"]',
  ])
  expect(joined[0]!.sent).toEqual([messages('up')])
})

test('whoever leaves has been read to the end, and the end is no loss', async () => {
  const { worker, primary } = await socketPair()
  const { hub, joined } = noteHub()
  serveChannel(primary, hub, announcement)
  let lost = ''
  const seat = await join(worker, notePort().port, (reason) => {
    lost = reason
  })
  const big = messages('x'.repeat(1 << 20))
  for (let at = 0; at < 6; at++) expect(seat.send(big)).toBe(true)
  await seat.leave()
  expect(joined[0]!.sent).toHaveLength(6)
  expect(joined[0]!.left).toBe(true)
  expect(lost).toBe('')
})

test('… at the latest after a second, if the primary does not read', async () => {
  const { worker, primary } = await socketPair()
  const { hub } = noteHub()
  serveChannel(primary, hub, announcement)
  const seat = await join(worker, notePort().port)
  primary.pause()
  for (let at = 0; at < 6; at++) seat.send(messages('x'.repeat(1 << 20)))
  const startedAt = clock()
  await seat.leave()
  expect(clock() - startedAt).toBeLessThan(2_000)
})

function withByte(frame: Buffer, offset: number, value: number): Buffer {
  const copy = Buffer.from(frame)
  copy.writeUInt8(value, offset)
  return copy
}

function tooLong(): Buffer {
  const head = Buffer.alloc(8)
  head.writeUInt32LE(MAX_FRAME_BYTES, 0)
  return head
}

const firstFrames: [string, Buffer, RegExp][] = [
  ['a wrong nonce', hello({ nonce: 'beef'.repeat(8) }), /wrong nonce/],
  ['no nonce', hello({ nonce: undefined }), /wrong nonce/],
  ['a nonce of another length', hello({ nonce: 'f00d' }), /wrong nonce/],
  ['another namespace', hello({ namespace: 'other' }), /another namespace or Redis/],
  ['another Redis', hello({ redisId: 'other' }), /another namespace or Redis/],
  ['no member', hello({ member: { id: 'x' } }), /names no member/],
  ['no hello', encodeControl(Kind.who, {}), /no hello/],
  ['no object', encodeControl(Kind.hello, 5), /no hello/],
  ['messages', messages('early'), /no hello/],
  ['another version', withByte(hello(), 4, FRAME_VERSION + 1), /version 2/],
  ['an unknown kind', withByte(hello(), 5, 200), /unknown frame kind/],
  ['a frame that is too long', tooLong(), /over the limit/],
]

test.each(firstFrames)(
  'the primary refuses %s, says why, and serves the others',
  async (_what, frame, reason) => {
    const { hub, joined } = noteHub()
    const [good, bad] = [await socketPair(), await socketPair()]
    const events: { index: number; reason: string }[] = []
    const onBus = (event: unknown): void => void events.push(event as (typeof events)[number])
    channels.bus.subscribe(onBus)
    onTestFinished(() => void channels.bus.unsubscribe(onBus))
    serveChannel(good.primary, hub, announcement)
    serveChannel(bad.primary, hub, { ...announcement, index: 4 })
    const { port, heard } = notePort()
    await join(good.worker, port)
    const answers = framesFrom(bad.worker)
    bad.worker.write(frame)
    await closed(bad.worker)
    expect(answers.map(kindOf)).toEqual([Kind.refuse])
    expect(decodeControl(answers[0]!)?.reason).toMatch(reason)
    expect(events).toEqual([{ event: 'channel-closed', index: 4, reason: expect.stringMatching(reason) }])
    expect(joined).toHaveLength(1)
    joined[0]!.port.deliver(messages('still'))
    await until(() => heard.length === 1, { what: 'the good worker to be served' })
  },
)

test.each<[string, Buffer]>([
  ['a frame that is too long', tooLong()],
  ["a hub's frame", encodeControl(Kind.members, {})],
  ['another version', withByte(messages('x'), 4, 9)],
  ['zeros', Buffer.alloc(64)],
])(
  'a worker that has joined and sends %s loses its seat at once, even if it does not hang up',
  async (_what, bytes) => {
    const { hub, joined } = noteHub()
    const { worker, primary } = await socketPair()
    worker.allowHalfOpen = true
    serveChannel(primary, hub, announcement)
    const answers = framesFrom(worker)
    worker.write(Buffer.concat([hello(), messages('fine'), bytes, messages('too late')]))
    await until(() => joined[0]?.left, { what: 'the seat to be left' })
    expect(joined[0]!.sent.map(messagesBody)).toEqual(['["news",0,"fine"]'])
    expect(joined[0]!.port.deliver(messages('for nobody'))).toBe(false)
    await until(() => primary.destroyed, { what: 'the primary to hang up' })
    expect(answers.map(kindOf)).toEqual([Kind.welcome, Kind.refuse])
  },
)

test('random bytes cost one worker its channel and nobody else anything', async () => {
  const rng = fileRng().fork('random bytes')
  const { hub, joined } = noteHub()
  const good = await socketPair()
  serveChannel(good.primary, hub, announcement)
  const seat = await join(good.worker, notePort().port)
  for (let round = 0; round < 30; round++) {
    const { worker, primary } = await socketPair()
    serveChannel(primary, hub, announcement)
    worker.resume()
    const noise = rng.bytes(rng.int(1, 300))
    worker.write(rng.int(0, 1) ? noise : Buffer.concat([hello(), noise]))
    worker.end()
    await closed(worker)
  }
  seat.send(messages('still'))
  await until(() => joined[0]!.sent.length === 1, { what: 'the good worker to be heard' })
  await until(() => joined.slice(1).every(({ left }) => left), { what: 'the others to be gone' })
  expect(joined[0]!.left).toBe(false)
})

const answersOfAPrimary: [string, Buffer | undefined, RegExp][] = [
  ['a welcome with another nonce', encodeControl(Kind.welcome, { nonce: 'x' }), /something else/],
  ['something else', encodeControl(Kind.remote, { up: true }), /something else/],
  ['a refusal', encodeControl(Kind.refuse, { reason: 'not you' }), /not you/],
  ['another version', withByte(encodeControl(Kind.welcome, {}), 4, 2), /version 2/],
  ['a frame that is too long', tooLong(), /over the limit/],
  ['nothing but the end', undefined, /closed/],
]

test.each(answersOfAPrimary)(
  'a worker gives up when the primary answers %s',
  async (_what, answer, reason) => {
    const { worker, primary } = await socketPair()
    primary.resume()
    if (answer) primary.write(answer)
    else primary.end()
    await expect(join(worker, notePort().port)).rejects.toMatchObject({
      code: 'ERR_AS_ONE_CHANNEL',
      message: expect.stringMatching(reason),
    })
    expect(worker.destroyed).toBe(true)
  },
)

test('a worker gives up after 2 s of silence', async () => {
  const { worker, primary } = await socketPair()
  primary.resume()
  const startedAt = clock()
  await expect(join(worker, notePort().port)).rejects.toThrow(/no answer in 2000 ms/)
  expect(clock() - startedAt).toBeLessThan(3_000)
})

test.each(['drop-oldest', 'drop-newest'] as const)(
  'a worker that does not read costs its primary its limit and no more, and is then told what it has missed (%s)',
  async (overflow) => {
    const { hub, joined } = noteHub()
    const { worker, primary } = await socketPair()
    serveChannel(primary, hub, announcement)
    const { port, heard } = notePort()
    await joinOverChannel({ socket: worker, announcement }, member, port, () => {}, {
      queueBytes: 4 << 20,
      overflow,
    })
    let overflows = 0
    const onBus = (event: unknown): void =>
      void ((event as { event: string }).event === 'channel-overflow' && overflows++)
    channels.bus.subscribe(onBus)
    onTestFinished(() => void channels.bus.unsubscribe(onBus))
    worker.pause()
    const { port: toWorker } = joined[0]!
    const count = 400
    const before = await liveBytes()
    for (let at = 1; at <= count; at++) toWorker.deliver(messageAt(at, 'x'.repeat(100_000)))
    for (let at = 0; at < 1_000; at++) {
      toWorker.members([{ ...member, id: at.toString(16).padStart(16, '0') }])
      toWorker.remote(at % 2 === 0)
    }
    expect(primary.writableLength).toBeLessThan((4 << 20) + 200_000)
    const live = async () => (await liveBytes()) < before + (8 << 20)
    await until(live, { what: 'no more than the limit to be kept of 40 MB' })
    expect(overflows).toBeGreaterThan(200)
    worker.resume()
    await until(() => heard.some((one) => JSON.stringify(one) === '{"remote":false}'), {
      what: 'the latest word',
    })
    // What arrives and what is reported is everything, in order, and nothing twice.
    let last = 0
    let received = 0
    let reported = 0
    for (const one of heard) {
      if (typeof one === 'string') {
        expect((JSON.parse(one) as unknown[])[2]).toBe(last + 1)
        last += 1
        received += 1
      } else if ('positions' in (one as object)) {
        const { at, cause } = (one as { positions: Positions }).positions
        expect(cause).toBe('overflow')
        const reached = at[0]![1]
        reported += reached - last
        last = reached
      }
    }
    expect({ last, all: received + reported, reported }).toEqual({
      last: count,
      all: count,
      reported: overflows,
    })
    const members = heard.filter((one) => typeof one === 'object' && one !== null && 'members' in one).at(-1)
    expect((members as { members: string[] }).members).toEqual([(999).toString(16).padStart(16, '0')])
  },
)

test('the channel is for the bus with the same namespace and Redis, and only once', async () => {
  const { worker } = await socketPair()
  announce(announcement, worker)
  expect(takeChannel('other', announcement.redisId)).toBeUndefined()
  expect(takeChannel(announcement.namespace, 'other')).toBeUndefined()
  expect(takeChannel(announcement.namespace, announcement.redisId)?.socket).toBe(worker)
  expect(takeChannel(announcement.namespace, announcement.redisId)).toBeUndefined()
})

test.each(['', 'no json', 'null', '5', '{}', '{"nonce":5}'])(
  'an announcement of %j is no channel, and is removed',
  (text) => {
    const env = { AS_ONE_CHANNEL: text }
    expect(openAnnouncedChannel(env)).toBeUndefined()
    expect(env).toEqual({})
  },
)

/** A hub as a primary has one, a bus as a worker has one, and a bus on another machine. */
async function family(
  url = sharedRedis().url,
  hubUrl = url,
): Promise<{ hub: Hub; open(): Bus; far: Bus; announced: Announcement }> {
  const namespace = testNamespace()
  const keys = createKeys(namespace)
  const sourceFor = (id: string, at = url) => createRedisSource(at, { name: 't', env: {}, cwd: '/', id })
  const redisId = `primary ${namespace}`
  const hub = createHub({ keys, source: sourceFor(redisId, hubUrl) })
  onTestFinished(() => hub.close())
  const open = (id: string): Bus => {
    const bus = createBus({ keys, source: sourceFor(id) })
    onTestFinished(() => bus.close())
    return bus
  }
  const far = open(`far ${namespace}`)
  await far.subscribe('x', () => {}).ready
  return { hub, open: () => open(redisId), far, announced: { ...announcement, namespace, redisId } }
}

test.each<[string, (primary: Socket) => void]>([
  ['says nothing', (primary) => primary.resume()],
  ['speaks another version', (primary) => primary.end(withByte(encodeControl(Kind.welcome, {}), 4, 2))],
  ['hangs up', (primary) => primary.destroy()],
])('when the primary %s, the worker is its own hub and misses nothing', async (_what, behave) => {
  const { open, far, announced } = await family()
  const { worker, primary } = await socketPair()
  announce(announced, worker)
  const bus = open()
  const events: unknown[] = []
  const onBus = (event: unknown): void => void events.push(event)
  channels.bus.subscribe(onBus)
  onTestFinished(() => void channels.bus.unsubscribe(onBus))
  const listening = listen(bus, 'news')
  bus.broadcast('news', 'early')
  const receipt = bus.publish('news', 'first')
  behave(primary)
  const ear = await listening
  const farEar = await listen(far, 'news')
  far.broadcast('news', 'from far')
  bus.broadcast('news', 'own')
  await until(() => ear.heard.length >= 4 && farEar.payloads().includes('own'), { what: 'all messages' })
  expect(ear.payloads().sort()).toEqual(['early', 'first', 'from far', 'own'])
  expect((await receipt).local).toBe(0)
  expect(events).toContainEqual({ event: 'own-hub', reason: expect.any(String) })
})

test.each<[string, (primary: Socket) => void]>([
  ['dies', (primary) => primary.destroy()],
  ['sends nonsense', (primary) => primary.write(Buffer.alloc(64, 0xff))],
])(
  'when the primary %s, the worker goes on as its own hub, and nothing is heard twice',
  async (_what, behave) => {
    const { hub, open, far, announced } = await family()
    const { worker, primary } = await socketPair()
    announce(announced, worker)
    serveChannel(primary, hub, announced)
    const bus = open()
    const [ear, farEar] = [await listen(bus, 'news'), await listen(far, 'news')]
    expect(bus.members().find(({ self }) => self)).toMatchObject({ index: 3 })
    const events: string[] = []
    bus.on('degraded', () => events.push('degraded'))
    bus.on('restored', () => events.push('restored'))
    for (let at = 0; at < 100; at++) bus.broadcast('news', at)
    const receipt = await bus.publish('news', 100)
    expect(receipt).toEqual({ local: 0, remote: 'sent' })
    behave(primary)
    await until(() => events.includes('restored'), { what: 'the worker to have a hub of its own' })
    expect(events).toEqual(['degraded', 'restored'])
    bus.broadcast('news', 'after')
    far.broadcast('news', 'from far')
    await until(() => ear.heard.length >= 103 && farEar.heard.length >= 103, { what: 'all messages' })
    const expected = [...Array.from({ length: 101 }, (_, at) => at), 'after']
    expect(farEar.payloads().filter((payload) => payload !== 'from far')).toEqual(expected)
    expect(ear.payloads().filter((payload) => payload !== 'from far')).toEqual(expected)
    expect(ear.heard).toHaveLength(103)
    expect(bus.members().filter(({ id }) => id === bus.id)).toHaveLength(1)
    await until(() => far.members().length === 2, { what: 'the others to know one worker, not two' })
  },
)

test('a listener that throws does not cost the worker its channel', async () => {
  const { hub, open, far, announced } = await family()
  const { worker, primary } = await socketPair()
  announce(announced, worker)
  serveChannel(primary, hub, announced)
  const thrown: Error[] = []
  const others = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', (error) => thrown.push(error))
  try {
    const bus = open()
    bus.on('join', () => {
      throw new Error('my own fault')
    })
    const ear = await listen(bus, 'news')
    await until(() => thrown.length > 0, { what: 'the error to be seen' })
    expect(thrown[0]!.message).toBe('my own fault')
    far.broadcast('news', 1)
    await until(() => ear.heard.length === 1, { what: 'the message' })
    expect(worker.destroyed).toBe(false)
  } finally {
    process.removeAllListeners('uncaughtException')
    for (const listener of others) process.on('uncaughtException', listener)
  }
})

test('close() over the channel: all is sent and every receipt answered before the worker leaves', async () => {
  const redis = await startRedis()
  const proxy = await startProxy({ target: { port: redis.port } })
  const { hub, open, far, announced } = await family(redis.url, proxy.url())
  const { worker, primary } = await socketPair()
  announce(announced, worker)
  serveChannel(primary, hub, announced)
  const bus = open()
  await bus.subscribe('x', () => {}).ready
  proxy.delay(100) // so that the answers would come too late
  const farEar = await listen(far, 'news')
  for (let at = 0; at < 200; at++) bus.broadcast('news', at)
  const receipts = Array.from({ length: 5 }, (_, at) => bus.publish('news', 200 + at))
  await bus.close()
  expect(await Promise.all(receipts)).toEqual(receipts.map(() => ({ local: 0, remote: 'sent' })))
  await until(() => farEar.heard.length >= 205, { what: 'all messages on the other machine' })
  expect(farEar.payloads()).toEqual(Array.from({ length: 205 }, (_, at) => at))
  await until(() => far.members().length === 1, { what: 'its leaving to be known', deadline: 4_500 })
})

import { randomBytes } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { hostname } from 'node:os'
import { aborted, withDeadline } from '../core/abort.ts'
import { channels } from '../core/channels.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import type { Keys } from '../core/keys.ts'
import { show } from '../core/options.ts'
import { onRoleChange, processRole } from '../core/role.ts'
import type { RedisSource } from '../redis/source.ts'
import { type Address, createBatcher } from './batcher.ts'
import { announcedChannel, joinOverChannel, takeChannel } from './channel.ts'
import { ID_BYTES, Stream } from './frame.ts'
import { type AnswerHandler, createGatherDesk } from './gather.ts'
import type { HubPort, HubSeat } from './hub.ts'
import { type HubHold, holdHub } from './hubs.ts'
import type { BusEvents, MachineBus, PublishOptions } from './interface.ts'
import { createLogReader } from './log-reader.ts'
import { createLogWriter } from './log-writer.ts'
import type { MemberRecord } from './members.ts'
import { type BusOptions, BusSettings } from './options.ts'
import { createEars, type Gap } from './positions.ts'
import { createPresence } from './presence.ts'
import { createReceipts } from './receipts.ts'
import { createReceiver, type MessageHandler, type MessageMeta } from './receiver.ts'
import { checkTopic, createTopicTable } from './topics.ts'
import { createWatchers } from './watchers.ts'

/** How long `close()` waits to learn what became of the last messages. */
const RECEIPTS_DEADLINE_MS = 1_000
const MAX_SKIPPED = 10_000

export function createBus({
  keys,
  source,
  options,
}: {
  keys: Keys
  source: RedisSource
  options?: BusOptions | undefined
}): MachineBus {
  const idBytes = randomBytes(ID_BYTES)
  const id = idBytes.toString('hex')
  const events = new EventEmitter<BusEvents>()
  const receivers = createTopicTable<MessageHandler>()
  const primaryReceivers = createTopicTable<MessageHandler>()
  const receipts = createReceipts()
  const settings = new BusSettings(options)
  /** Own messages on log topics that this process's receivers are not to get. */
  const skipped = new Set<string>()
  let joining: Promise<void> | undefined
  let seat: HubSeat | undefined
  let hold: HubHold | undefined
  let closing: Promise<void> | undefined

  const presence = createPresence({
    id,
    label: () => source.label,
    onJoin: (member) => emit('join', member),
    onLeave(member) {
      desk.onLeave(member)
      emit('leave', member)
    },
    onReachable: (up) => emit(up ? 'restored' : 'degraded'),
  })
  const ears = createEars(id, tellGap)
  const receiver = createReceiver({
    id,
    ears,
    subscribers(stream) {
      if (stream === Stream.primary) return primaryReceivers
      return processRole() === 'primary' ? undefined : receivers
    },
    onInternal: (topic, payload, meta) => desk.onInternal(topic, payload, meta),
    onFailure: handlerFailed,
  })
  const logReader = createLogReader({
    ask: (request) => seat?.replay(request),
    onGap: tellGap,
    deliver(topic, [from, sequence, at, encoding, payload]) {
      const self = from === id
      if (self && skipped.delete(`${sequence} ${topic}`)) return
      receiver.dispatch(receivers, encoding, payload, { topic, from, sequence, at, self })
    },
  })
  const desk = createGatherDesk({
    members: () => presence.members,
    ask: (topic, payload) => lines().batcher.add(topic, payload, false, 0, ASK_EVERYONE),
    answer(member, topic, payload) {
      if (closing) return
      const to = { stream: Stream.direct, target: member, internal: true }
      lines().batcher.add(topic, payload, false, 0, to)
    },
  })
  const watchers = createWatchers(() => {
    start()
    seat?.track(watchers.everyMs())
  })
  const lines = lazily(() => ({
    batcher: createBatcher({
      publisher: idBytes,
      maxMessageBytes: settings.resolved.maxMessageBytes,
      send,
      drop,
      receiveOwn: receiver.receiveOwn,
    }),
    logWriter: createLogWriter({
      publisher: id,
      maxMessageBytes: settings.resolved.maxMessageBytes,
      topics: settings.resolved.logTopics,
      send: (request) => seat?.append(request),
      drop,
    }),
  }))

  const port: HubPort = {
    id,
    get isPrimary() {
      return primaryReceivers.size > 0
    },
    deliver(frame) {
      receiver.receive(frame)
      return true
    },
    members: presence.setMembers,
    remote(up, reason, isUnanswered = false) {
      ears.connected(up)
      if (isUnanswered) ears.interrupted()
      presence.setReachable(up, reason)
      if (!up) return
      logReader.catchUp()
      void followLogs()
    },
    positions(positions) {
      ears.hear(positions)
      if (positions.cause === 'overflow') logReader.catchUp()
    },
    log(page) {
      if (processRole() !== 'primary' && (receivers.size > 0 || page.answer)) logReader.hear(page)
    },
    receipt: receipts.answer,
    cacheNews(news) {
      watchers.hear(news)
      return true
    },
  }

  function start(): void {
    if (closing) return
    joining ??= join(keys.namespace, source.id) // read here: a mistake in the settings is the caller's to hear
  }

  const record = (): MemberRecord => ({
    id,
    machine: hostname(),
    pid: process.pid,
    index: announcedChannel()?.announcement.index,
  })

  async function join(namespace: string, redisId: string): Promise<void> {
    settings.freeze()
    const channel = processRole() === 'primary' ? undefined : takeChannel(namespace, redisId)
    if (channel) {
      try {
        const { queueBytes, overflow } = settings.resolved
        const joined = joinOverChannel(channel, record(), port, onChannelLost, { queueBytes, overflow })
        sitDown(await joined)
      } catch (error) {
        if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'own-hub', reason: messageOf(error) })
      }
    }
    if (!seat) joinOwnHub(undefined)
    flush()
  }

  function joinOwnHub(formerHub: string | undefined): void {
    hold ??= holdHub(keys, source)
    sitDown(hold.hub.join(processRole() === 'primary' ? undefined : record(), port, formerHub))
  }

  function sitDown(next: HubSeat): void {
    if (seat) watchers.hear({ lost: 'this process has joined another hub', refused: false })
    seat = next
    if (watchers.everyMs() > 0) seat.track(watchers.everyMs())
    logReader.catchUp()
  }

  function flush(): void {
    lines().batcher.flush()
    lines().logWriter.flush()
  }

  /** Joined before `runCluster` was reached: a primary sends but is no receiver. */
  const stopRoleChange = onRoleChange(() => {
    if (processRole() !== 'primary') return
    presence.release()
    if (!hold) return
    void seat?.leave()
    sitDown(hold.hub.join(undefined, port))
  })

  /** The primary died, or what came over the channel made no sense: from now on this process is its own hub. */
  function onChannelLost(reason: string, formerHub: string | undefined): void {
    if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'own-hub', reason })
    seat = undefined as HubSeat | undefined // joinOwnHub sets it again
    watchers.hear({ lost: reason, refused: false })
    ears.interrupted()
    receipts.dropAll()
    if (closing) return
    presence.setReachable(false, reason)
    joinOwnHub(formerHub)
    flush()
    // What the old hub has not read is lost, and only we know how much that may be.
    seat?.note({ at: lines().batcher.positions(), cause: 'dropped' })
  }

  function send(frame: Buffer, receipt: number): boolean {
    if (!seat) return false
    if (!seat.send(frame)) drop(receipt)
    return true
  }

  function drop(receipt: number): void {
    if (receipt !== 0) receipts.answer(receipt, { local: 0, remote: 'dropped' })
  }

  function tellGap(gap: Gap): void {
    if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'gap', ...gap })
    emit('gap', gap)
  }

  function handlerFailed(error: unknown, meta: MessageMeta): void {
    if (events.listenerCount('handler-error') > 0) emit('handler-error', error, meta)
    else
      process.emitWarning(`a receiver of '${meta.topic}' failed: ${messageOf(error)}`, {
        code: 'AS_ONE_HANDLER_ERROR',
      })
  }

  /** A listener that throws ends the process like any uncaught error, but not in the middle of our work. */
  function emit<Event extends keyof BusEvents>(event: Event, ...args: BusEvents[Event]): void {
    try {
      events.emit(event as never, ...(args as never))
    } catch (error) {
      process.nextTick(() => {
        throw error
      })
    }
  }

  const closed = (): Error => new SharedStateError('ERR_AS_ONE_CLOSED', 'the bus has been closed')

  function checkOpen(): void {
    if (closing) throw closed()
  }

  /** Sends one message; the receipt, if not 0, is answered later, or here when nothing has to be waited for. */
  function post(
    topic: string,
    payload: unknown,
    { to = 'everyone', self = true }: PublishOptions,
    receipt: number,
  ): void {
    checkTopic(topic)
    start()
    const { batcher, logWriter } = lines()
    if (settings.resolved.logTopics.has(topic)) {
      if (to !== 'everyone') throw logNeedsEveryone(topic, to)
      const number = logWriter.add(topic, payload, receipt)
      if (!self && skipped.size < MAX_SKIPPED) skipped.add(`${number} ${topic}`)
      return
    }
    if (to === 'everyone') batcher.add(topic, payload, self, receipt)
    else if (to === 'machine') batcher.add(topic, payload, self, receipt, MACHINE)
    else if (to === 'primary') batcher.add(topic, payload, false, receipt, PRIMARY)
    else postDirect(topic, payload, to === 'any' ? anyMember(self) : to, receipt)
  }

  function postDirect(topic: string, payload: unknown, target: string | undefined, receipt: number): void {
    if (target === id) {
      lines().batcher.addOwn(topic, payload)
      if (receipt !== 0) receipts.answer(receipt, { local: 0, remote: 'none' })
    } else if (target !== undefined && presence.members.some((member) => member.id === target)) {
      lines().batcher.add(topic, payload, false, receipt, { stream: Stream.direct, target })
    } else drop(receipt)
  }

  function anyMember(self: boolean): string | undefined {
    const candidates = presence.members.filter((member) => self || !member.self)
    return candidates[Math.floor(Math.random() * candidates.length)]?.id
  }

  /** Follows the log topics that somebody here has subscribed to. */
  async function followLogs(): Promise<void> {
    await joining
    const followed = [...settings.resolved.logTopics.keys()].filter(
      (topic) => receivers.matching(topic).length > 0,
    )
    await Promise.all(followed.map(logReader.follow))
  }

  async function readyToHear(signal: AbortSignal | undefined): Promise<void> {
    await presence.ready(signal)
    if (processRole() === 'primary' || settings.resolved.logTopics.size === 0) return
    await withDeadline(followLogs(), LOG_READY_DEADLINE_MS, logNotReady, signal)
  }

  const logNotReady = (): Error =>
    new SharedStateError(
      'ERR_AS_ONE_REDIS_UNAVAILABLE',
      `the log topics could not be read from Redis at ${source.label} for ${LOG_READY_DEADLINE_MS} ms; check that it allows the commands XRANGE and XREVRANGE`,
    )

  async function close(): Promise<void> {
    stopRoleChange()
    presence.release(closed())
    desk.close()
    await joining
    flush()
    receivers.clear()
    await withDeadline(receipts.settled(), RECEIPTS_DEADLINE_MS, closed).catch(() => {})
    logReader.close()
    await seat?.leave()
    await hold?.release()
    receipts.dropAll()
  }

  return {
    id,
    invalidations: watchers,
    broadcast(topic, payload) {
      checkOpen()
      post(topic, payload, {}, 0)
    },
    async publish(topic, payload, options = {}) {
      checkOpen()
      const { signal } = options
      if (signal?.aborted) throw aborted(signal)
      const receipt = receipts.open()
      try {
        post(topic, payload, options, receipt.id)
        return await withDeadline(receipt.answered, undefined, closed, signal)
      } finally {
        receipts.forget(receipt.id)
      }
    },
    subscribe(topicOrPattern, handler, { signal } = {}) {
      checkOpen()
      checkHandler('subscribe', handler)
      const remove = receivers.add(topicOrPattern, handler as MessageHandler)
      signal?.addEventListener('abort', remove, { once: true })
      if (signal?.aborted) remove()
      // Not at once: the same file may be on its way to making this process a primary, which receives nothing.
      setImmediate(() => processRole() !== 'primary' && start())
      const ready = readyToHear(signal)
      ready.catch(() => {}) // whoever does not await `ready` has the events
      return {
        ready,
        unsubscribe() {
          remove()
          signal?.removeEventListener('abort', remove)
        },
      }
    },
    handle(topic, handler) {
      checkOpen()
      checkHandler('handle', handler)
      setImmediate(() => processRole() !== 'primary' && start())
      return desk.handle(topic, handler as AnswerHandler)
    },
    async gather(topic, payload, options) {
      checkOpen()
      checkTopic(topic)
      start()
      await joining
      const own = { topic, from: id, sequence: 0, at: Date.now(), self: true }
      return desk.gather(topic, payload, options, own)
    },
    members() {
      if (!joining) setImmediate(() => processRole() !== 'primary' && start())
      return presence.members
    },
    on(event, listener) {
      events.on(event, listener as never)
      return () => events.off(event, listener as never)
    },
    onPrimary(topicOrPattern, handler) {
      start()
      return primaryReceivers.add(topicOrPattern, handler)
    },
    configure: (given) => settings.configure(given),
    start,
    close() {
      closing ??= close()
      return closing
    },
  }
}

const LOG_READY_DEADLINE_MS = 10_000
const MACHINE: Address = { stream: Stream.machine, target: '' }
const PRIMARY: Address = { stream: Stream.primary, target: '' }
const ASK_EVERYONE: Address = { stream: Stream.everyone, target: '', internal: true }

function logNeedsEveryone(topic: string, to: string): SharedStateError {
  return new SharedStateError(
    'ERR_AS_ONE_OPTIONS',
    `'${topic}' is a log topic and goes to everyone, got to: ${show(to)}; use another topic`,
  )
}

function lazily<T>(make: () => T): () => T {
  let made: T | undefined
  return () => {
    made ??= make()
    return made
  }
}

function checkHandler(of: string, handler: unknown): void {
  if (typeof handler === 'function') return
  throw new SharedStateError(
    'ERR_AS_ONE_OPTIONS',
    `${of}: the handler must be a function, got ${show(handler)}`,
  )
}

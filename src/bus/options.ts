import { SharedStateError } from '../core/errors.ts'
import { OptionReader } from '../core/options.ts'
import { DEFAULT_QUEUE_BYTES, type Overflow } from './lane.ts'
import { isTopic, TOPIC_FORM } from './topics.ts'

/** How messages on a topic are delivered. */
export interface TopicOptions {
  /**
   * `'volatile'`: at most once; what is missed is reported as a `gap`. `'log'`: kept in Redis, in one order for everybody,
   * and replayed after a disconnect. Default `'volatile'`.
   */
  readonly delivery?: 'volatile' | 'log'
  /** Of a log: about how many messages Redis keeps; what is older is reported as a `gap`. Default 10,000. */
  readonly maxLen?: number
}

export interface BusOptions {
  /** A message larger than this is refused at `broadcast` and `publish`, up to 4 MiB. Default `'1mb'`. */
  readonly maxMessageBytes?: number | string
  /** What may wait for this process at the machine's hub while it does not read, 64 KiB to 64 MiB. Default `'8mb'`. */
  readonly queueBytes?: number | string
  /** Which messages go when that is full; they are reported as a `gap`. Default `'drop-oldest'`. */
  readonly overflow?: Overflow
  /** The same in every process: who publishes and who subscribes must agree. Topics not named here are volatile. */
  readonly topics?: Readonly<Record<string, TopicOptions>>
}

/** Log topics and how long they are. */
export type LogTopics = Map<string, number>

export interface ResolvedBusOptions {
  readonly maxMessageBytes: number
  readonly queueBytes: number
  readonly overflow: Overflow
  readonly logTopics: LogTopics
}

const MAX_MESSAGE_BYTES = 4 << 20
const MAX_QUEUE_BYTES = 64 << 20
const MIN_QUEUE_BYTES = 64 << 10

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS`, all mistakes in one */
export function readBusOptions(options: BusOptions | undefined): ResolvedBusOptions {
  const reader = new OptionReader('bus', options, {
    maxPayload: 'maxMessageBytes',
    messageBytes: 'maxMessageBytes',
    maxQueue: 'queueBytes',
    highWaterMark: 'queueBytes',
    channels: 'topics',
  })
  const maxMessageBytes = reader.size('maxMessageBytes', 1 << 20)
  const queueBytes = reader.size('queueBytes', DEFAULT_QUEUE_BYTES)
  const overflow = reader.oneOf<Overflow, Overflow>('overflow', 'drop-oldest', ['drop-oldest', 'drop-newest'])
  if (maxMessageBytes < 1 || maxMessageBytes > MAX_MESSAGE_BYTES)
    reader.mistake('maxMessageBytes', `must be 1 to ${MAX_MESSAGE_BYTES} bytes, got ${maxMessageBytes}`)
  if (queueBytes < MIN_QUEUE_BYTES || queueBytes > MAX_QUEUE_BYTES)
    reader.mistake('queueBytes', `must be ${MIN_QUEUE_BYTES} to ${MAX_QUEUE_BYTES} bytes, got ${queueBytes}`)
  const logTopics: LogTopics = new Map()
  const topics = (reader.raw('topics') ?? {}) as Record<string, unknown>
  const nested = reader.nested('topics')
  for (const topic of Object.keys(topics)) {
    const each = nested.nested(topic, { retain: 'maxLen', maxlen: 'maxLen', durable: 'delivery' })
    const delivery = each.oneOf<'volatile' | 'log', 'volatile'>('delivery', 'volatile', ['volatile', 'log'])
    const maxLen = each.integer('maxLen', undefined, 1, 10_000_000)
    if (maxLen !== undefined && delivery !== 'log') each.mistake('maxLen', "needs delivery: 'log'")
    each.close()
    if (!isTopic(topic)) nested.mistake(topic, `must have ${TOPIC_FORM}`)
    if (delivery === 'log') logTopics.set(topic, maxLen ?? 10_000)
  }
  reader.done()
  return { maxMessageBytes, queueBytes, overflow, logTopics }
}

/** The settings of one bus, open to change until its first use. */
export class BusSettings {
  #given: BusOptions
  #resolved: ResolvedBusOptions
  #frozen = false

  constructor(options: BusOptions = {}) {
    this.#given = options
    this.#resolved = readBusOptions(options)
  }

  get resolved(): ResolvedBusOptions {
    return this.#resolved
  }

  freeze(): void {
    this.#frozen = true
  }

  /** @throws SharedStateError `ERR_AS_ONE_OPTIONS` */
  configure(options: BusOptions): void {
    const merged = { ...this.#given, ...options, topics: { ...this.#given.topics, ...options.topics } }
    const resolved = readBusOptions(merged)
    if (this.#frozen && inWords(resolved) !== inWords(this.#resolved)) {
      throw new SharedStateError(
        'ERR_AS_ONE_OPTIONS',
        'createBus: the default bus is in use already with other settings; call createBus where the app starts, before the first subscribe or broadcast',
      )
    }
    this.#given = merged
    this.#resolved = resolved
  }
}

function inWords({ logTopics, ...rest }: ResolvedBusOptions): string {
  return JSON.stringify([rest, [...logTopics].sort()])
}

import type {
  AnswerHandler,
  Bus,
  BusEvents,
  BusOptions,
  Gathered,
  GatherOptions,
  Member,
  MessageHandler,
  PublishOptions,
  Receipt,
  Subscription,
  TypedBus,
} from './bus/index.ts'
import { defaultContext } from './context.ts'

export type {
  AnswerHandler,
  Bus,
  BusEvents,
  BusOptions,
  Gap,
  GapCause,
  Gathered,
  GatherOptions,
  Member,
  MessageHandler,
  MessageMeta,
  MissingReason,
  Overflow,
  PublishOptions,
  Receipt,
  Subscription,
  TopicOptions,
  TypedBus,
} from './bus/index.ts'

/** `Bus.broadcast` of the default instance. */
export function broadcast(topic: string, payload?: unknown): void {
  defaultContext().bus.broadcast(topic, payload)
}

/** `Bus.publish` of the default instance. */
export function publish(topic: string, payload?: unknown, options?: PublishOptions): Promise<Receipt> {
  return defaultContext().bus.publish(topic, payload, options)
}

/** `Bus.subscribe` of the default instance. In a primary it does nothing. */
export function subscribe<Payload = unknown>(
  topicOrPattern: string,
  handler: MessageHandler<Payload>,
  options?: { signal?: AbortSignal },
): Subscription {
  return defaultContext().bus.subscribe(topicOrPattern, handler, options)
}

/** `Bus.handle` of the default instance. In a primary it does nothing. */
export function handle<Question = unknown, Answer = unknown>(
  topic: string,
  handler: AnswerHandler<Question, Answer>,
): () => void {
  return defaultContext().bus.handle(topic, handler)
}

/** `Bus.gather` of the default instance. */
export function gather<Answer = unknown>(
  topic: string,
  payload?: unknown,
  options?: GatherOptions,
): Promise<Gathered<Answer>> {
  return defaultContext().bus.gather<Answer>(topic, payload, options)
}

/** `Bus.members` of the default instance. */
export function members(): readonly Member[] {
  return defaultContext().bus.members()
}

/** `Bus.on` of the default instance. */
export function onBus<Event extends keyof BusEvents>(
  event: Event,
  listener: (...args: BusEvents[Event]) => void,
): () => void {
  return defaultContext().bus.on(event, listener)
}

/**
 * The default instance's bus with its topics' types, limits and log topics. Opens nothing; call it where the app starts.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` for a mistake in the options, or when the bus is in use with others
 * @example
 * interface Topics { 'user.*': { id: string }; audit: AuditEntry }
 * const bus = createBus<Topics>({ topics: { audit: { delivery: 'log', maxLen: 10_000 } } })
 * bus.broadcast('user.7', { id: '7' })
 */
export function createBus<Topics extends object = Record<string, unknown>>(
  options: BusOptions = {},
): TypedBus<Topics> {
  const { bus } = defaultContext()
  bus.configure(options)
  return bus as TypedBus<Topics>
}

/** The default instance's bus. */
export function defaultBus(): Bus {
  return defaultContext().bus
}

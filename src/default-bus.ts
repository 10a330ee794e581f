import type {
  Bus,
  BusEvents,
  Member,
  MessageHandler,
  PublishOptions,
  Receipt,
  Subscription,
} from './bus/index.ts'
import { defaultContext } from './context.ts'

export type {
  Bus,
  BusEvents,
  Member,
  MessageHandler,
  MessageMeta,
  PublishOptions,
  Receipt,
  Subscription,
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

/** The default instance's bus. */
export function defaultBus(): Bus {
  return defaultContext().bus
}

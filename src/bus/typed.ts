import type { Receipt } from './hub.ts'
import type { Bus, PublishOptions, Subscription } from './interface.ts'
import type { MessageMeta } from './receiver.ts'

/** Topics that a key stands for: itself, or with `*` at its end all those below it. */
type TopicsOf<Key extends string> = Key extends `${infer Head}.**` | `${infer Head}.*`
  ? `${Head}.${string}`
  : Key

type Keys<Topics> = keyof Topics & string
type TopicName<Topics> = { [Key in Keys<Topics>]: TopicsOf<Key> }[Keys<Topics>]

/** What travels on a topic: of its own key, else of the pattern it belongs to. */
type PayloadOf<Topics, Topic extends string> =
  Topic extends Keys<Topics>
    ? Topics[Topic]
    : { [Key in Keys<Topics>]: Topic extends TopicsOf<Key> ? Topics[Key] : never }[Keys<Topics>]

type PayloadArgument<Payload> = undefined extends Payload ? [payload?: Payload] : [payload: Payload]

/** A bus whose topics and payloads the compiler knows. `'user.*'` as a key types `'user.7'` and the pattern itself. */
export interface TypedBus<Topics extends object> extends Omit<Bus, 'broadcast' | 'publish' | 'subscribe'> {
  /** As `Bus.broadcast`. */
  broadcast<Topic extends TopicName<Topics>>(
    topic: Topic,
    ...payload: PayloadArgument<PayloadOf<Topics, Topic>>
  ): void
  /** As `Bus.publish`. */
  publish<Topic extends TopicName<Topics>>(
    topic: Topic,
    payload: PayloadOf<Topics, Topic>,
    options?: PublishOptions,
  ): Promise<Receipt>
  /** As `Bus.subscribe`. */
  subscribe<Topic extends TopicName<Topics> | Keys<Topics>>(
    topicOrPattern: Topic,
    handler: (payload: PayloadOf<Topics, Topic>, meta: MessageMeta) => unknown,
    options?: { signal?: AbortSignal },
  ): Subscription
}

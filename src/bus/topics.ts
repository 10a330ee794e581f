import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'

const MAX_TOPIC_LENGTH = 256
/** Topics whose receivers are remembered; a client that can choose topics cannot make this grow. */
const MAX_REMEMBERED = 1_000

export const TOPIC_FORM: string = `1 to ${MAX_TOPIC_LENGTH} characters without '*'`

export function isTopic(topic: unknown): topic is string {
  return typeof topic === 'string' && topic !== '' && topic.length <= MAX_TOPIC_LENGTH && !topic.includes('*')
}

/** @throws SharedStateError `ERR_AS_ONE_OPTIONS` */
export function checkTopic(topic: unknown): asserts topic is string {
  if (!isTopic(topic)) throw topicError('topic', topic, TOPIC_FORM)
}

/** Which of its values belong to a topic; patterns match whole segments between dots. */
export interface TopicTable<T> {
  readonly size: number
  /** @throws SharedStateError `ERR_AS_ONE_OPTIONS` when the topic or pattern is malformed */
  add(topicOrPattern: string, value: T): () => void
  matching(topic: string): readonly T[]
  clear(): void
}

export function createTopicTable<T>(): TopicTable<T> {
  const entries = new Set<{ matches: (topic: string) => boolean; value: T }>()
  const remembered = new Map<string, readonly T[]>()
  return {
    get size() {
      return entries.size
    },
    add(topicOrPattern, value) {
      const entry = { matches: matcher(topicOrPattern), value }
      entries.add(entry)
      remembered.clear()
      return () => {
        if (entries.delete(entry)) remembered.clear()
      }
    },
    matching(topic) {
      const known = remembered.get(topic)
      if (known) return known
      const found = [...entries].filter((entry) => entry.matches(topic)).map((entry) => entry.value)
      if (remembered.size >= MAX_REMEMBERED) remembered.clear()
      remembered.set(topic, found)
      return found
    },
    clear() {
      entries.clear()
      remembered.clear()
    },
  }
}

/** `a.*` is `a` and one more segment, `a.**` is `a` and one or more. */
function matcher(topicOrPattern: unknown): (topic: string) => boolean {
  if (
    typeof topicOrPattern !== 'string' ||
    topicOrPattern === '' ||
    topicOrPattern.length > MAX_TOPIC_LENGTH
  ) {
    throw topicError('topic', topicOrPattern, `1 to ${MAX_TOPIC_LENGTH} characters`)
  }
  if (!topicOrPattern.includes('*')) return (topic) => topic === topicOrPattern
  const segments = topicOrPattern.split('.')
  const open = segments.at(-1) === '**'
  const fixed = open ? segments.slice(0, -1) : segments
  if (fixed.some((segment) => segment.includes('*') && segment !== '*')) {
    throw topicError('pattern', topicOrPattern, "'*' as a whole segment, and '**' as the last one")
  }
  return (topic) => {
    const parts = topic.split('.')
    if (open ? parts.length <= fixed.length : parts.length !== fixed.length) return false
    return fixed.every((segment, index) => segment === '*' || segment === parts[index])
  }
}

function topicError(what: string, got: unknown, wanted: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_OPTIONS', `a ${what} must have ${wanted}, got ${show(got)}`)
}

import { encodeChecked } from './batcher.ts'
import type { AppendRequest } from './log-desk.ts'
import type { LogTopics } from './options.ts'

/** A request is sent at the end of the tick, or as soon as it holds this many characters. */
const FLUSH_CHARACTERS = 16 << 10
/** Written before the hub has been joined; past it the oldest go. */
const MAX_EARLY_CHARACTERS = 8 << 20

export interface LogWriterOptions {
  readonly publisher: string
  readonly maxMessageBytes: number
  readonly topics: LogTopics
  /** Undefined while there is no hub yet, false when it cannot take it. */
  send(request: AppendRequest): boolean | undefined
  drop(receipt: number): void
}

/** Gathers a tick's messages for log topics. They go to Redis first, and to every subscriber from there, in one order. */
export interface LogWriter {
  /** Returns the message's number. @throws SharedStateError `ERR_AS_ONE_PAYLOAD` */
  add(topic: string, payload: unknown, receipt: number): number
  flush(): void
}

export function createLogWriter({
  publisher,
  maxMessageBytes,
  topics,
  send,
  drop,
}: LogWriterOptions): LogWriter {
  /** Last number by topic; topics are declared, so they are few. */
  const numbers = new Map<string, number>()
  const waiting: AppendRequest[] = []
  let waitingCharacters = 0
  let batch: { topic: string; first: number; entries: string[]; characters: number } | undefined
  let scheduled = false

  function cut(receipt: number): void {
    if (!batch) return
    const { topic, first, entries, characters } = batch
    batch = undefined
    waiting.push({ topic, publisher, maxLen: topics.get(topic) ?? 1, receipt, first, entries })
    waitingCharacters += characters
    while (waitingCharacters > MAX_EARLY_CHARACTERS && waiting.length > 1)
      drop((waiting.shift() as AppendRequest).receipt)
  }

  function flush(): void {
    scheduled = false
    cut(0)
    for (let request = waiting[0]; request; request = waiting[0]) {
      const sent = send(request)
      if (sent === undefined) return
      waiting.shift()
      if (!sent) drop(request.receipt)
    }
    waitingCharacters = 0
  }

  return {
    add(topic, payload, receipt) {
      const { encoding, json } = encodeChecked(topic, payload, maxMessageBytes)
      if (batch && (batch.topic !== topic || batch.characters >= FLUSH_CHARACTERS)) cut(0)
      const number = (numbers.get(topic) ?? 0) + 1
      numbers.set(topic, number)
      batch ??= { topic, first: number, entries: [], characters: 0 }
      batch.entries.push(`["${publisher}",${number},${Date.now()},${encoding},${json}]`)
      batch.characters += json.length
      if (receipt !== 0) cut(receipt)
      if (!scheduled) {
        scheduled = true
        setImmediate(flush)
      }
      return number
    },
    flush,
  }
}

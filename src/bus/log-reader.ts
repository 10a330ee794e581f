import { channels } from '../core/channels.ts'
import type { LogEntry, LogPage, ReplayRequest } from './log-desk.ts'
import { BoundedMap, type Gap, type GapCause } from './positions.ts'

export interface LogReaderOptions {
  /** Asks the hub; its answer comes to `hear`. Nothing happens while there is no hub. */
  ask(request: ReplayRequest): void
  deliver(topic: string, entry: LogEntry): void
  onGap(gap: Gap): void
}

/**
 * A member's place in each log topic. Entries have ids without holes: one that is not the next shows that something was
 * missed, which is then read from the log, in order, before anything newer is delivered.
 */
export interface LogReader {
  /** Begins where the log ends now; resolves when that place is known. */
  follow(topic: string): Promise<void>
  hear(page: LogPage): void
  /** Something may have been missed, or there is a new hub to ask. */
  catchUp(): void
  close(): void
}

interface Place {
  epoch: string
  next: number
}

interface Following {
  /** Undefined until the hub has said where the log ends. */
  place: Place | undefined
  /** The answer is awaited; what is written meanwhile is read after it. */
  asking: boolean
  /** The newest id that was seen while asking. */
  seen: Place | undefined
  emptyAnswers: number
  readonly started: Promise<void>
  start(): void
}

const ASK_AGAIN_MS = 1_000
const MAX_EMPTY_ANSWERS = 3

export function createLogReader({ ask, deliver, onGap }: LogReaderOptions): LogReader {
  const followed = new Map<string, Following>()
  /** Last number of each publisher on each topic. */
  const numbers = new BoundedMap<number>()
  let retryTimer: NodeJS.Timeout | undefined

  function askFor(topic: string, state: Following): void {
    state.asking = true
    ask({ topic, from: state.place ? idOf(state.place) : undefined })
  }

  function answered(topic: string, state: Following, { entries, answer }: LogPage): void {
    if (answer?.error !== undefined) {
      retryTimer ??= setTimeout(() => {
        retryTimer = undefined
        for (const [each, one] of followed) if (one.asking) askFor(each, one)
      }, ASK_AGAIN_MS)
      retryTimer.unref()
      return
    }
    // An answer to a question from before a reconnect; the later one's is still to come.
    if (answer?.from !== (state.place ? idOf(state.place) : undefined)) return
    const end = answer?.last === undefined ? undefined : placeOf(answer.last)
    if (!state.place) {
      state.place = end ? { epoch: end.epoch, next: end.next + 1 } : { epoch: '', next: 0 }
      state.start()
    }
    for (const [id, entry] of entries) take(topic, state.place, placeOf(id), entry)
    const target = newer(state.seen, end)
    if (target && !isBehind(target, state.place)) {
      state.emptyAnswers = entries.length > 0 ? 0 : state.emptyAnswers + 1
      // Written after the log was read, unless the log itself says that it goes further, or says nothing again and again.
      if (state.emptyAnswers > 0 && end && !isBehind(end, state.place)) skipTo(topic, state.place, end)
      else if (state.emptyAnswers > MAX_EMPTY_ANSWERS) skipTo(topic, state.place, target)
      askFor(topic, state)
      return
    }
    state.asking = false
    state.seen = undefined
    state.emptyAnswers = 0
  }

  /** The log does not hold what is next: it has been trimmed, or lost. */
  function skipTo(topic: string, place: Place, target: Place): void {
    if (place.epoch === target.epoch) missed(topic, place, target.next + 1, 'trimmed')
    else reset(topic, place, target.epoch)
  }

  function reset(topic: string, place: Place, epoch: string): void {
    forgetNumbers(topic)
    if (place.epoch !== '') tell(topic, place.next, undefined, 'reset')
    place.epoch = epoch
    place.next = 0
  }

  function take(topic: string, place: Place, at: Place, entry: LogEntry): void {
    if (at.epoch !== place.epoch) reset(topic, place, at.epoch)
    if (at.next < place.next) return
    if (at.next > place.next) missed(topic, place, at.next, 'trimmed')
    place.next = at.next + 1
    const [publisher, number] = entry
    const key = `${publisher} ${topic}`
    const before = numbers.get(key)
    if (before !== undefined && number > before + 1)
      onGap({
        publisher,
        topic,
        from: before + 1,
        to: number - 1,
        count: number - before - 1,
        cause: 'dropped',
      })
    if (before === undefined || number > before) numbers.set(key, number)
    deliver(topic, entry)
  }

  function missed(topic: string, place: Place, next: number, cause: GapCause): void {
    forgetNumbers(topic)
    tell(topic, place.next, next - 1, cause)
    place.next = next
  }

  /** Whoever's messages are among those missing: they are not to be reported twice. */
  function forgetNumbers(topic: string): void {
    for (const key of numbers.keys()) if (key.endsWith(` ${topic}`)) numbers.delete(key)
  }

  function tell(topic: string, from: number, to: number | undefined, cause: GapCause): void {
    onGap({
      publisher: undefined,
      topic,
      from,
      to,
      count: to === undefined ? null : to - from + 1,
      cause,
    })
  }

  function begin(topic: string, place: Place | undefined): Following {
    let start = (): void => {}
    const started = new Promise<void>((resolve) => {
      start = resolve
    })
    const state: Following = { place, asking: false, seen: undefined, emptyAnswers: 0, started, start }
    followed.set(topic, state)
    return state
  }

  return {
    follow(topic) {
      let state = followed.get(topic)
      if (!state) {
        state = begin(topic, undefined)
        askFor(topic, state)
      }
      return state.started
    },
    hear(page) {
      const { topic, entries } = page
      let state = followed.get(topic)
      if (page.answer) {
        if (state?.asking) answered(topic, state, page)
        return
      }
      for (const [id, entry] of entries) {
        const at = placeOf(id)
        if (!state) {
          // Others call this a log topic; from here on so do we.
          if (channels.bus.hasSubscribers) channels.bus.publish({ event: 'undeclared-log-topic', topic })
          state = begin(topic, { ...at })
          state.start()
        }
        if (state.asking) state.seen = at
        else if (state.place?.epoch === at.epoch && at.next === state.place.next)
          take(topic, state.place, at, entry)
        else if (state.place?.epoch !== at.epoch || at.next > state.place.next) {
          state.seen = at
          // A new history may lie before the old one if the server's clock was set back.
          if (state.place && Number(at.epoch) < Number(state.place.epoch)) skipTo(topic, state.place, at)
          askFor(topic, state)
        }
      }
    },
    catchUp() {
      for (const [topic, state] of followed) askFor(topic, state)
    },
    close() {
      clearTimeout(retryTimer)
      followed.clear()
    },
  }
}

const idOf = ({ epoch, next }: Place): string => `${epoch === '' ? 0 : epoch}-${next}`

function placeOf(id: string): Place {
  const [epoch = '', number = '0'] = id.split('-')
  return { epoch, next: Number(number) }
}

/** Whether everything up to `target` has been passed. */
function isBehind(target: Place, place: Place): boolean {
  return target.epoch === place.epoch && target.next < place.next
}

function newer(a: Place | undefined, b: Place | undefined): Place | undefined {
  if (!a || !b) return a ?? b
  if (a.epoch !== b.epoch) return Number(a.epoch) > Number(b.epoch) ? a : b
  return a.next > b.next ? a : b
}

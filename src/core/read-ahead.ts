import type { IncomingMessage, ServerResponse } from 'node:http'

/**
 * Lets one room ask Redis for what a request is going to need while another room waits for Redis on its behalf anyway:
 * both questions go out in one write, and the second round trip is saved. The rooms do not know each other.
 */
export interface ReadAhead {
  /** Called by a room right before it asks Redis something about `req`, in the same turn. */
  begin(req: IncomingMessage, res: ServerResponse): void
  /** `read` starts to load, unless there is nothing to load; what it gives is kept with the request until it is taken. */
  offer<Early extends object>(
    read: (req: IncomingMessage, res: ServerResponse) => Early | undefined,
  ): Taker<Early>
}

/** What was begun for this request, at the place where it is needed; undefined when nothing was. */
export type Taker<Early> = (req: IncomingMessage) => Early | undefined

/** Requests after which a habit is judged anew; in flight there are rarely as many. */
const WINDOW = 64
/** Of those how many must have come where it is needed: each of the others has asked for nothing. */
const OFTEN = 48
/** First parts of paths that are judged on their own; all others are judged together. */
const MAX_PLACES = 128
/** V8 copies parts this short; a longer one would keep the whole URL in memory. */
const PLACE_LENGTH = 12

/** Whether requests that begin here come to the place where what is read is needed. */
class Habit {
  /** Undefined until there have been enough to tell. */
  isLikely: boolean | undefined
  #begun = 0
  #taken = 0

  began(): void {
    this.#begun += 1
    if (this.#begun < WINDOW) return
    this.isLikely = this.#taken >= OFTEN
    this.#begun = 0
    this.#taken = 0
  }

  took(): void {
    this.#taken += 1
  }
}

interface Begun<Early> {
  readonly habit: Habit | undefined
  readonly early: Early | undefined
}

/** Of a request that has come to the place: another limit behind it says nothing about where requests go. */
const PAST: Begun<never> = { habit: undefined, early: undefined }

export function createReadAhead(): ReadAhead {
  const begins: ((req: IncomingMessage, res: ServerResponse) => void)[] = []
  return {
    begin(req, res) {
      for (const begin of begins) begin(req, res)
    },
    offer<Early extends object>(read: (req: IncomingMessage, res: ServerResponse) => Early | undefined) {
      const begun = new WeakMap<IncomingMessage, Begun<Early>>()
      const everywhere = new Habit()
      const places = new Map<string, Habit>()

      begins.push((req, res) => {
        if (begun.has(req)) return // a second limit
        const place = placeOf(req)
        let habit = places.get(place)
        if (!habit && places.size < MAX_PLACES) {
          habit = new Habit()
          places.set(place, habit)
        }
        const early = (habit?.isLikely ?? everywhere.isLikely) ? read(req, res) : undefined
        habit?.began()
        everywhere.began()
        begun.set(req, { habit, early })
      })
      return (req) => {
        const found = begun.get(req)
        begun.set(req, PAST)
        if (!found || found === PAST) return undefined
        found.habit?.took()
        everywhere.took()
        return found.early
      }
    },
  }
}

/** The first part of the path: apps serve their pages at one, their files at another. */
function placeOf(req: IncomingMessage & { originalUrl?: string }): string {
  const url = req.originalUrl ?? req.url ?? ''
  const most = Math.min(url.length, 1 + PLACE_LENGTH)
  let end = 1
  while (end < most && !isEnd(url.charCodeAt(end))) end += 1
  return url.slice(1, end)
}

/** `/`, `?` or `#`. */
function isEnd(character: number): boolean {
  return character === 0x2f || character === 0x3f || character === 0x23
}

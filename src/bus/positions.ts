import { ID_BYTES, publisherOf } from './frame.ts'

/** Why messages did not arrive. */
export type GapCause =
  /** The connection to Redis, the hub or the publisher's own was cut. */
  | 'reconnect'
  /** This process was too far behind, and its queue at the hub has dropped them. */
  | 'overflow'
  /** The publisher's machine has dropped them: Redis was away for too long, or its primary did not read. */
  | 'dropped'
  /** The publisher is gone, and nobody has heard its last number. */
  | 'publisher-lost'
  /** They were sent by another release, whose format this one cannot read. */
  | 'version'
  /** A log topic: older than what Redis still holds. */
  | 'trimmed'
  /** A log topic: Redis has lost its history (FLUSHALL, a restart without persistence). */
  | 'reset'

/** Messages that were accepted and will not arrive here. */
export interface Gap {
  /** Member id; undefined where a log topic cannot say who has published what is gone. */
  readonly publisher: string | undefined
  /** The log topic; undefined for all others, whose numbers count a publisher's messages over all topics. */
  readonly topic: string | undefined
  /** Sequence number of the first one missing; `from` 1 with a null count: unknown. */
  readonly from: number
  /** Of the last one; undefined when it is not known. */
  readonly to: number | undefined
  /** `to - from + 1`; null when the publisher was lost before its last number was known. Some may yet arrive then. */
  readonly count: number | null
  readonly cause: GapCause
}

/** Last sequence numbers by stream key, as hubs and members tell each other. */
export interface Positions {
  readonly at: readonly (readonly [streamKey: string, last: number])[]
  /** Why a receiver that is not that far has missed something. */
  readonly cause: GapCause
  /** Publishers whose last number nobody will tell. */
  readonly gone?: readonly string[]
  /** A newcomer's starting point: what it has never heard of, it has not missed. */
  readonly baseline?: boolean
}

const STREAM_KEY = new RegExp(`^[0-9a-f]{${2 * ID_BYTES}}(:[mp]|>[0-9a-f]{${2 * ID_BYTES}})?$`)
const MAX_POSITIONS = 10_000
const CAUSES: ReadonlySet<unknown> = new Set<GapCause>([
  'reconnect',
  'overflow',
  'dropped',
  'publisher-lost',
  'version',
])

/** The positions in a peer's frame; whatever is malformed is left out, never trusted. */
export function readPositions(value: Readonly<Record<string, unknown>>): Positions {
  const at = Array.isArray(value.at) ? (value.at as unknown[]) : []
  const gone = Array.isArray(value.gone) ? (value.gone as unknown[]) : []
  return {
    at: at.slice(0, MAX_POSITIONS).flatMap((entry) => {
      const [key, last] = Array.isArray(entry) ? (entry as unknown[]) : []
      const good = typeof key === 'string' && STREAM_KEY.test(key) && Number.isSafeInteger(last)
      return good && (last as number) >= 0 ? [[key, last as number] as const] : []
    }),
    cause: CAUSES.has(value.cause) ? (value.cause as GapCause) : 'reconnect',
    gone: gone.filter((id): id is string => typeof id === 'string').slice(0, MAX_POSITIONS),
    baseline: value.baseline === true,
  }
}

/** A Map that forgets its oldest entries: whoever can write to Redis can name as many publishers as they like. */
export class BoundedMap<Value> extends Map<string, Value> {
  readonly #most: number

  constructor(most: number = MAX_POSITIONS) {
    super()
    this.#most = most
  }

  override set(key: string, value: Value): this {
    if (2 * this.size > this.#most) super.delete(key) // so that those in use stay
    super.set(key, value)
    if (this.size > this.#most) this.delete(this.keys().next().value as string)
    return this
  }
}

/** How long a publisher that was just heard of for the first time may have spoken before we listened. */
const NEWCOMER_MS = 10_000

/** What a member has heard of every stream; it says which messages are new and which are missing. */
export interface Ears {
  /** Takes messages `first` to `last` of a stream; returns the number before the first new one, undefined for none. */
  accept(streamKey: string, first: number, last: number): number | undefined
  /** Takes word of how far streams are. */
  hear(positions: Positions): void
  /** Other machines are heard from now on, or no longer. */
  connected(up: boolean): void
  /** From now on what is unknown has been missed, not slept through. */
  interrupted(): void
}

export function createEars(own: string, onGap: (gap: Gap) => void): Ears {
  /** `vague`: a gap without end has been told from `last` on, which covers the next jump too. */
  const heard = new BoundedMap<{ last: number; vague: boolean }>()
  let firstUpAt: number | undefined
  let wasCut = false

  const isNewcomer = (): boolean =>
    !wasCut && (firstUpAt === undefined || performance.now() - firstUpAt < NEWCOMER_MS)

  /** Everything up to `last` has either been heard or is missing. */
  function reach(streamKey: string, last: number, cause: GapCause, baseline: boolean): void {
    const state = heard.get(streamKey)
    if (state === undefined) {
      heard.set(streamKey, { last, vague: false })
      if (last > 0 && !baseline && !isNewcomer()) tell(streamKey, 1, last, cause)
      return
    }
    if (last <= state.last) return
    const from = state.last + 1
    const covered = state.vague
    state.last = last
    state.vague = false
    // Nobody has been told yet that other machines can be heard.
    const isEarly = cause === 'reconnect' && firstUpAt === undefined && !wasCut
    if (!covered && !isEarly) tell(streamKey, from, last, cause)
  }

  function tell(streamKey: string, from: number, to: number, cause: GapCause): void {
    onGap({ publisher: publisherOf(streamKey), topic: undefined, from, to, count: to - from + 1, cause })
  }

  const isForMe = (streamKey: string): boolean =>
    publisherOf(streamKey) !== own && (!streamKey.includes('>') || streamKey.endsWith(`>${own}`))

  return {
    accept(streamKey, first, last) {
      const state = heard.get(streamKey)
      if (state && last <= state.last) return undefined // it came by two paths
      if (!state || first > state.last + 1) reach(streamKey, first - 1, 'reconnect', false)
      const now = heard.get(streamKey) as { last: number; vague: boolean }
      const before = now.last
      now.last = last
      now.vague = false
      return before
    },
    hear({ at, cause, gone = [], baseline = false }) {
      for (const [streamKey, last] of at)
        if (isForMe(streamKey)) reach(streamKey, last, cause, baseline && !wasCut)
      for (const publisher of gone) {
        const state = heard.get(publisher)
        if (!state || state.vague || publisher === own) continue
        state.vague = true
        onGap({
          publisher,
          topic: undefined,
          from: state.last + 1,
          to: undefined,
          count: null,
          cause: 'publisher-lost',
        })
      }
    },
    connected(up) {
      if (up) firstUpAt ??= performance.now()
      else if (firstUpAt !== undefined) wasCut = true
    },
    interrupted() {
      wasCut = true
    },
  }
}

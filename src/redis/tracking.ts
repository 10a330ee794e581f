import { randomBytes } from 'node:crypto'
import { withDeadline } from '../core/abort.ts'
import { messageOf } from '../core/errors.ts'
import { monotonicMs } from '../core/monotonic.ts'
import { type RedisConnection, reconnectDelayMs } from './client.ts'
import { clusterMasters, type Masters, singleMaster } from './masters.ts'
import type { RedisSource } from './source.ts'
import { TrackingLink, TrackingRefused } from './tracking-link.ts'

/** Silence on a link for so long is its end: it is half-open or its server is frozen. */
const PING_DEADLINE_MS = 2_000
const SETUP_DEADLINE_MS = 5_000
const PROBE_DEADLINE_MS = 2_000
/** A server that refuses is asked again this often: an ACL can be changed without our being told. */
const REFUSED_RETRY_MS = 30_000
/** Below the prefix, but no entry: the name of a cache does not begin like this. */
const PROBE_MARK = '!'

/** Everything written under a prefix on any master, and the proof that nothing of it has been missed. */
export interface Tracking {
  /** Whether proofs can be had at the moment. */
  readonly live: boolean
  /** How often a proof is wanted. */
  pace(everyMs: number): void
  /** Idempotent. */
  close(): void
}

export interface TrackingOptions {
  readonly prefix: string
  /** The hub's connection for commands. */
  readonly commands: RedisConnection
  readonly everyMs: number
  /** Keys without the prefix that may have changed, in order; null: all of them. */
  onInvalidated(keys: readonly string[] | null): void
  /** All that was written up to this moment, ms of the machine's monotonic clock, has been told by `onInvalidated`. */
  onProven(at: number): void
  /** Writes may be missed from now on, until the next proof. `refused`: the server does not let us listen. */
  onLost(reason: string, refused: boolean): void
}

/** One life of all links together: when one of them is lost, all begin anew. */
interface Session {
  over: boolean
  masters: Masters | undefined
  readonly links: TrackingLink[]
}

export function openTracking(source: RedisSource, options: TrackingOptions): Tracking {
  const { prefix, commands } = options
  let { everyMs } = options
  let closed = false
  let attempts = 0
  let session: Session
  let proofTimer: NodeJS.Timeout | undefined
  let retryTimer: NodeJS.Timeout | undefined
  let live = false

  function start(): void {
    session = { over: false, masters: undefined, links: [] }
    const mine = session
    withDeadline(
      listen(mine),
      SETUP_DEADLINE_MS,
      () => new Error('no answer while beginning to listen'),
    ).then(
      () => begin(mine),
      (error: unknown) => end(mine, error),
    )
  }

  async function listen(mine: Session): Promise<void> {
    const target = await source.target()
    const identities: string[] = []
    const masters =
      target.kind === 'cluster'
        ? await clusterMasters(target, attempts, 'as-one:hub-topology')
        : await singleMaster(target, commands, () => identities[0] ?? '', 'as-one:hub-topology')
    mine.masters = masters
    if (mine.over) masters.close()
    checkStill(mine)
    await Promise.all(
      masters.list.map(async (master, index) => {
        const link = new TrackingLink(master.options, {
          prefix,
          connectionName: 'as-one:hub-tracking',
          onInvalidated: (keys) => mine.over || hear(keys),
          onClose: () => end(mine, new Error('connection closed')),
        })
        mine.links.push(link)
        identities[index] = await link.open()
        const key = master.keyFor(`${prefix}${PROBE_MARK}${randomBytes(8).toString('hex')}`)
        // One without slots takes no probe; when it gets some, the masters have changed and all begins anew.
        if (key === undefined) return
        // Written to another server, as in the middle of a failover, it would look as if this one did not tell of it.
        await commands.ready()
        if (!(await masters.unchanged())) throw new Error('it is not known which server commands reach')
        await link.proveWith(key, () => master.write(key), PROBE_DEADLINE_MS)
      }),
    )
    checkStill(mine)
  }

  function begin(mine: Session): void {
    if (mine.over) return
    attempts = 0
    live = true
    prove(mine)
    pace()
  }

  function pace(): void {
    clearInterval(proofTimer)
    const mine = session
    if (live) proofTimer = setInterval(() => prove(mine), everyMs).unref()
  }

  /** The moment is taken before the question is sent: what was written before it cannot come behind the answer. */
  function prove(mine: Session): void {
    const at = monotonicMs()
    const answers = Promise.all([mine.masters?.unchanged(), ...mine.links.map((link) => link.ping())])
    withDeadline(answers, PING_DEADLINE_MS, () => new Error('PING was not answered')).then(
      ([unchanged]) => {
        if (unchanged === true && !mine.over) options.onProven(at)
      },
      (error: unknown) => end(mine, error),
    )
  }

  function hear(keys: readonly Buffer[] | null): void {
    if (keys === null) {
      options.onInvalidated(null)
      return
    }
    const names: string[] = []
    for (const key of keys) {
      const name = key.toString('utf8').slice(prefix.length)
      if (!name.startsWith(PROBE_MARK)) names.push(name)
    }
    if (names.length > 0) options.onInvalidated(names)
  }

  function end(mine: Session, error: unknown): void {
    if (mine.over) return
    finish(mine)
    if (closed) return
    attempts += 1
    const refused = error instanceof TrackingRefused
    options.onLost(messageOf(error), refused)
    retryTimer = setTimeout(start, refused ? REFUSED_RETRY_MS : reconnectDelayMs(attempts)).unref()
  }

  function finish(mine: Session): void {
    mine.over = true
    live = false
    clearInterval(proofTimer)
    for (const link of mine.links) link.close()
    mine.masters?.close()
  }

  start()
  return {
    get live() {
      return live
    },
    pace(next) {
      if (next === everyMs) return
      everyMs = next
      pace()
    },
    close() {
      closed = true
      clearTimeout(retryTimer)
      finish(session)
    },
  }
}

function checkStill(mine: Session): void {
  if (mine.over) throw new Error('given up meanwhile')
}

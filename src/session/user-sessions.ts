import type { IncomingMessage } from 'node:http'
import { recordOf } from './fields.ts'
import type { HashStore } from './store.ts'
import { eachOf, type UserIndex } from './user-index.ts'

/** One of a user's sessions. */
export interface UserSession<Data extends object = object> {
  /** Its hashed id, for `destroy(id)`: it opens nothing. */
  readonly id: string
  /** By Redis' clock. */
  readonly createdAt: Date
  /** When it was last used, to within `touchEvery`. */
  readonly touchedAt: Date
  readonly data: Readonly<Partial<Data>>
}

/** A session to be spared: its request, its session id, or an `id` of `list()`. */
export type SparedSession = IncomingMessage | string

/** All sessions of one user, on all workers and machines. */
export interface UserSessions<Data extends object = object> {
  /** Those that live, in no order. */
  list(): Promise<UserSession<Data>[]>
  count(): Promise<number>
  /** True when it was there and was this user's. */
  destroy(id: string): Promise<boolean>
  /**
   * Logs out everywhere, with an exception; gives how many sessions have ended.
   *
   * @example await sessions.forUser(user.id).destroyAll({ except: req })
   */
  destroyAll(options?: { except?: SparedSession | readonly SparedSession[] }): Promise<number>
}

export function userSessions<Data extends object>(
  store: HashStore,
  index: UserIndex,
  user: string,
): UserSessions<Data> {
  const living = async (): Promise<string[]> => index.living(user, await index.all(user))
  return {
    async list() {
      const found = await eachOf(await living(), (id) => store.look(id))
      return found.filter((each) => each !== undefined) as unknown as UserSession<Data>[]
    },
    count: async () => (await living()).length,
    async destroy(id) {
      const [alive] = await index.living(user, [id])
      const ended = alive !== undefined && (await store.end(id))
      await index.forget(user, [id])
      return ended
    },
    async destroyAll({ except = [] } = {}) {
      const spared = new Set([except].flat().map((each) => idOf(store, each as SparedSession)))
      const ids = (await index.all(user)).filter((id) => !spared.has(id))
      // Each by itself, also those that do not exist yet or any more: a login under way must not slip through.
      const ended = await eachOf(ids, (id) => store.end(id))
      await index.forget(user, ids)
      return ended.filter(Boolean).length
    },
  }
}

function idOf(store: HashStore, spared: SparedSession): string {
  if (typeof spared === 'string') return HASHED.test(spared) ? spared : store.idOf(spared)
  const { session, sessionID } = spared as { session?: object; sessionID?: string }
  return (session && recordOf(session)?.home) ?? store.idOf(sessionID ?? '')
}

/** SHA-256 as base64url; our session ids have 32 characters. */
const HASHED = /^[\w-]{43}$/

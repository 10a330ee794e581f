import type { IncomingMessage } from 'node:http'
import { type CookieRequest, readSessionId } from './cookie.ts'
import { recordOf } from './fields.ts'
import type { ResolvedSessionOptions } from './options.ts'
import type { SessionData } from './recorded-store.ts'
import type { Revocations } from './revocations.ts'

/** The session of a request that no middleware sees: a WebSocket upgrade, an event stream. To be read only. */
export interface UpgradeSession<Data extends object = object> {
  /** Hashed id, as `forUser().list()` and `onRevoked()` give it. */
  readonly id: string
  readonly userId: string | undefined
  /** As it was when the request came. */
  readonly data: Readonly<Partial<Data>>
  /** Aborts when the session ends, on whichever worker; `signal.reason` is a `Revoked`. Let go when the socket closes. */
  readonly signal: AbortSignal
}

interface Reader {
  get(sid: string, callback: (error: unknown, session?: SessionData | null, note?: 'rotated') => void): void
}

export async function upgradeSession<Data extends object>(
  req: IncomingMessage,
  {
    options,
    store,
    idOf,
    revocations,
  }: {
    options: ResolvedSessionOptions
    store: Reader
    idOf: (sid: string) => string
    revocations: Revocations
  },
): Promise<UpgradeSession<Data> | undefined> {
  const signed = readSessionId(req as CookieRequest, options.name, options.secretsFor(req))
  if (!signed) return undefined
  const ended = new AbortController()
  // Held before it is read: what ends in between is heard.
  const asked = idOf(signed.sid)
  const release = revocations.hold(asked, (revoked) => ended.abort(revoked))
  try {
    const session = await new Promise<SessionData | null | undefined>((resolve, reject) => {
      store.get(signed.sid, (error, found) => (error ? reject(error) : resolve(found)))
    })
    if (!session || ended.signal.aborted) {
      release()
      return undefined
    }
    const record = recordOf(session)
    const { cookie: _, ...data } = session
    if (req.socket.destroyed) release()
    else req.socket.once('close', release)
    return {
      id: record?.home ?? asked,
      userId: record?.user,
      data: data as Readonly<Partial<Data>>,
      signal: ended.signal,
    }
  } catch (error) {
    release()
    throw error
  }
}

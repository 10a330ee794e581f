import { channels } from '../core/channels.ts'
import type { RedisClient } from '../redis/client.ts'
import { type Fields, isReserved, parseField, recordStored, type SessionRecord } from './fields.ts'
import type { SessionData } from './recorded-store.ts'
import { scanKeys, unlessWrongType } from './scan.ts'
import type { Sealer } from './seal.ts'

/** A field as it was written. */
export interface Written {
  readonly json: string
  /** As it lies in Redis. */
  readonly text: string
}

/** Fields that start with `~` are ours, so the application's are written with a second one. */
export function hashField(key: string): string {
  return key.startsWith('~') ? `~${key}` : key
}

export function sessionKey(field: string): string | undefined {
  if (!field.startsWith('~')) return field
  return field.startsWith('~~') ? field.slice(1) : undefined
}

/** The session in a hash, null when there is none; unknown `~` fields belong to newer versions of this package. */
export function loaded(
  sid: string,
  id: string,
  reply: Readonly<Record<string, string>>,
  sealer: Sealer,
  hasMoved = false,
): SessionData | null {
  const names = Object.keys(reply)
  if (names.length === 0) return null
  const session: Record<string, unknown> = {}
  const fields = new Map<string, string>()
  let texts: Map<string, string> | undefined
  for (const name of names) {
    const text = reply[name] as string
    if (name === 'cookie') {
      session.cookie = parseField(name, text)
      continue
    }
    const key = sessionKey(name)
    if (key === undefined || isReserved(key)) continue
    const json = sealer.open(id, key, text)
    if (json !== text) {
      texts ??= new Map()
      texts.set(key, text)
    }
    session[key] = parseField(key, json)
    fields.set(key, json)
  }
  const { cookie } = session
  const record = recordStored(
    session,
    sid,
    fields,
    typeof cookie === 'object' && cookie !== null ? cookie : undefined,
  )
  record.cookieText = reply.cookie
  record.touchedAt = Number(reply['~touched'])
  const createdAt = Number(reply['~created'])
  if (createdAt > 0) record.createdAt = createdAt
  record.user = reply['~user']
  record.texts = texts
  if (hasMoved) record.home = id
  return session as unknown as SessionData
}

/** What a session that has moved leaves behind is none. */
export function withoutSign(reply: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return reply['~moved'] === undefined ? reply : {}
}

/** Fields where others' changes went in are remembered as unknown: the next save will meet them again. */
export function keepTexts(
  record: SessionRecord,
  saved: Fields,
  written: ReadonlyMap<string, Written> | undefined,
): void {
  const texts = new Map<string, string>()
  for (const field of saved.keys()) {
    const now = written?.get(field)
    const text = now ? (now.json === saved.get(field) ? now.text : '') : record.texts?.get(field)
    if (text !== undefined) texts.set(field, text)
  }
  record.texts = texts
}

/** All sessions that can be read, on all masters; `prefix` is what their keys start with, before the hashed id. */
export async function allHashes(client: RedisClient, prefix: string, sealer: Sealer): Promise<SessionData[]> {
  const sessions = new Map<string, SessionData>() // SCAN may name a key twice
  for await (const keys of scanKeys(client, `${prefix}*`)) {
    const replies = await Promise.all(keys.map((key) => client.hgetall(key).catch(unlessWrongType({}))))
    keys.forEach((key, index) => {
      try {
        const session = loaded('', key.slice(prefix.length), withoutSign(replies[index] ?? {}), sealer)
        if (session) sessions.set(key, session)
      } catch (error) {
        if (channels.session.hasSubscribers) channels.session.publish({ event: 'unreadable', key, error })
      }
    })
  }
  return [...sessions.values()]
}

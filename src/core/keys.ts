import { SharedStateError } from './errors.ts'
import { show } from './options.ts'

/**
 * Where each room's keys live. Final: changing a letter is a breaking change.
 *
 * | prefix | room | lifetime |
 * |---|---|---|
 * | `ns:s:`  | session: one hash per session                    | session TTL |
 * | `ns:u:`  | session: index of sessions by user               | longest session in it |
 * | `ns:c:`  | cache entries, generations, probes; what the hub tracks | entry TTL + grace; 30 days from last use; seconds |
 * | `ns:cx:` | cache: what must not be tracked                  | seconds |
 * | `ns:r:`  | rate limits                                      | window |
 * | `ns:l:`  | locks, leaders, schedules                        | lease; fire records two periods |
 * | `ns:m:`  | shared maps                                      | owned by the application |
 * | `ns:n:`  | shared counters                                  | owned by the application |
 * | `ns:b:`  | bus: channel name and topic logs                 | log trimmed by length |
 */
const ROOM_LETTERS = {
  session: 's',
  'session-user': 'u',
  cache: 'c',
  'cache-untracked': 'cx',
  'rate-limit': 'r',
  lock: 'l',
  map: 'm',
  counter: 'n',
  bus: 'b',
} as const

export type KeyRoom = keyof typeof ROOM_LETTERS

/** Builds every Redis key and channel name of one namespace. */
export interface Keys {
  readonly namespace: string
  /** Everything a room owns starts with this. */
  prefix(room: KeyRoom): string
  key(room: KeyRoom, id: string): string
  /** A key whose hash slot depends on `tag` alone, for scripts that need several keys on one Cluster master. */
  tagged(room: KeyRoom, tag: string, id: string): string
}

/**
 * The key builder of a namespace.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` when the namespace has characters that SCAN patterns,
 * hash tags or key separators give a meaning to
 */
export function createKeys(namespace: string): Keys {
  if (!isNamespace(namespace)) {
    throw new SharedStateError(
      'ERR_AS_ONE_OPTIONS',
      `namespace must be ${NAMESPACE_FORM}, got ${show(namespace)}`,
    )
  }
  const prefix = (room: KeyRoom): string => `${namespace}:${ROOM_LETTERS[room]}:`
  return {
    namespace,
    prefix,
    key: (room, id) => prefix(room) + id,
    tagged: (room, tag, id) => `${prefix(room)}{${hashTag(tag)}}${id}`,
  }
}

export const NAMESPACE_FORM: string = "1 to 64 letters, digits, '.', '_' or '-'"

export function isNamespace(value: string): boolean {
  return /^[A-Za-z0-9._-]{1,64}$/.test(value)
}

/** Redis ends a hash tag at the first `}` and ignores an empty one, so both are spelled differently. */
function hashTag(tag: string): string {
  return tag === '' ? '%' : tag.replace(/[%}]/g, (char) => (char === '%' ? '%25' : '%7D'))
}

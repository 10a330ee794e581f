import { createCipheriv, createDecipheriv, createSecretKey, type KeyObject, randomBytes } from 'node:crypto'
import { SharedStateError } from '../core/errors.ts'
import { type OptionReader, show } from '../core/options.ts'

/** A key that encrypts stored fields: its name, which is stored beside the text, and 32 random bytes, or those as base64 or hex. */
export interface EncryptionKey {
  readonly kid: string
  readonly key: string | Uint8Array
}

/** What a field's JSON looks like in Redis. `id` is the hashed session id. */
export interface Sealer {
  /** False: the text is the JSON itself. */
  readonly seals: boolean
  seal(id: string, field: string, json: string): string
  /** @throws SharedStateError `ERR_AS_ONE_SESSION` when no known key opens it, or it belongs to another session or field */
  open(id: string, field: string, text: string): string
}

const PLAIN: Sealer = {
  seals: false,
  seal: (_id, _field, json) => json,
  open: (_id, field, text) => {
    if (!text.startsWith('~')) return text // what every JSON begins with is something else
    throw unreadable(field, 'is encrypted, but the encrypt option gives no key')
  },
}

const IV_BYTES = 12
const TAG_BYTES = 16

/**
 * AES-256-GCM (NIST SP 800-38D) with a fresh 96-bit IV for each write: `~kid~base64url(iv, tag, text)`. Session and
 * field are authenticated with it, so that no text can be put in another's place. The first key seals, all open; plain
 * JSON from before is read, and sealed when it is next changed.
 */
export function createSealer(ring: ReadonlyMap<string, KeyObject>): Sealer {
  const [first] = ring
  if (!first) return PLAIN
  const [kid, key] = first
  return {
    seals: true,
    seal(id, field, json) {
      const iv = randomBytes(IV_BYTES)
      const cipher = createCipheriv('aes-256-gcm', key, iv, { authTagLength: TAG_BYTES })
      cipher.setAAD(Buffer.from(`${id}\n${field}`))
      const text = Buffer.concat([cipher.update(json, 'utf8'), cipher.final()])
      return `~${kid}~${Buffer.concat([iv, cipher.getAuthTag(), text]).toString('base64url')}`
    },
    open(id, field, text) {
      if (!text.startsWith('~')) return text
      const [, name = '', sealed = ''] = text.split('~', 3)
      const opener = ring.get(name)
      if (!opener)
        throw unreadable(field, `is encrypted with key ${show(name)}, which the encrypt option does not name`)
      const bytes = Buffer.from(sealed, 'base64url')
      try {
        const decipher = createDecipheriv('aes-256-gcm', opener, bytes.subarray(0, IV_BYTES), {
          authTagLength: TAG_BYTES,
        })
        decipher.setAAD(Buffer.from(`${id}\n${field}`))
        decipher.setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES))
        const rest = decipher.update(bytes.subarray(IV_BYTES + TAG_BYTES))
        return Buffer.concat([rest, decipher.final()]).toString('utf8')
      } catch (cause) {
        throw unreadable(
          field,
          `cannot be decrypted with key ${show(name)}: wrong key, or not written by us`,
          cause,
        )
      }
    },
  }
}

function unreadable(field: string, what: string, cause?: unknown): SharedStateError {
  const message = `the stored session is corrupted: field ${show(field)} ${what}`
  return new SharedStateError('ERR_AS_ONE_SESSION', message, { cause })
}

/** By name; the first seals. */
export function readEncryptionKeys(reader: OptionReader): ReadonlyMap<string, KeyObject> {
  const ring = new Map<string, KeyObject>()
  const given = reader.raw('encrypt')
  if (given === undefined) return ring
  const keys: unknown[] = Array.isArray(given) ? given : [given]
  if (keys.length === 0) reader.mistake('encrypt', 'must name at least one key')
  for (const each of keys) {
    const { kid, key } = (typeof each === 'object' && each !== null ? each : {}) as Partial<EncryptionKey>
    const bytes = keyBytes(key)
    if (typeof kid !== 'string' || !/^[\w.-]{1,32}$/.test(kid)) {
      reader.mistake(
        'encrypt',
        `needs a kid of 1 to 32 letters, digits, '.', '_' or '-' for each key, got ${show(kid)}`,
      )
    } else if (!bytes) reader.mistake('encrypt', `needs 32 bytes for key '${kid}', or those as base64 or hex`)
    else if (ring.has(kid)) reader.mistake('encrypt', `names key '${kid}' twice`)
    else ring.set(kid, createSecretKey(bytes))
  }
  return ring
}

function keyBytes(key: unknown): Buffer | undefined {
  if (key instanceof Uint8Array) return key.length === 32 ? Buffer.from(key) : undefined
  if (typeof key !== 'string') return undefined
  if (/^[0-9a-f]{64}$/i.test(key)) return Buffer.from(key, 'hex')
  if (!/^[\w+/-]{43}=?$/.test(key)) return undefined
  const bytes = Buffer.from(key, 'base64')
  return bytes.length === 32 ? bytes : undefined
}

import type { Store } from 'express-session'
import type { SharedContext } from '../context.ts'
import { SessionRedis } from './availability.ts'
import { BlobStore } from './blob-store.ts'
import { MovingStore } from './moving-store.ts'
import { type ResolvedStoreOptions, resolveStoreOptions, type SessionStoreOptions } from './options.ts'
import { createSealer } from './seal.ts'
import { HashStore } from './store.ts'
import { UserIndex } from './user-index.ts'

/** A store and what stands around it; `hash` when sessions have users, other ids and an end that others hear of. */
export interface OwnStore {
  readonly store: HashStore | BlobStore | MovingStore
  readonly hash: HashStore | undefined
  readonly users: UserIndex
}

export function createSessionStore(ctx: SharedContext, options: ResolvedStoreOptions): OwnStore {
  const redis = new SessionRedis(ctx.redis, options.timeoutMs)
  ctx.closing.add(() => redis.close())
  const users = new UserIndex(redis, ctx.keys)
  const hash = new HashStore({ redis, keys: ctx.keys, users, sealer: createSealer(options.ring), ...options })
  if (options.format === 'hash' && !options.migrate) return { store: hash, hash, users }
  const blobs = new BlobStore({ redis, ...options })
  const store = new MovingStore({
    hash,
    blobs,
    redis,
    movesOn: options.format === 'hash',
    prefix: options.prefix,
  })
  return { store, hash: options.format === 'hash' ? hash : undefined, users }
}

/**
 * The store alone, for express-session.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake
 * @example session({ secret, store: createStore(ctx, { ttl: '7d' }) })
 */
export function createStore(ctx: SharedContext, options?: SessionStoreOptions): Store {
  return createSessionStore(ctx, resolveStoreOptions(options)).store
}

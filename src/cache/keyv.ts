import { EventEmitter } from 'node:events'
import type { Cache } from './cache.ts'
import { sharedCache } from './shared-cache.ts'

/** What Keyv 5 asks of a storage adapter, without its package. */
export interface KeyvStore extends EventEmitter {
  /** Keyv's users put serializers there. */
  readonly opts: Record<string, unknown>
  /** Set by Keyv: its keys begin with it, and `clear` stays within it. */
  namespace?: string | undefined
  get<Value>(key: string): Promise<Value | undefined>
  getMany<Value>(keys: string[]): Promise<(Value | undefined)[]>
  set(key: string, value: unknown, ttl?: number): Promise<boolean>
  setMany(entries: readonly { key: string; value: unknown; ttl?: number }[]): Promise<void>
  delete(key: string): Promise<boolean>
  deleteMany(keys: string[]): Promise<boolean>
  has(key: string): Promise<boolean>
  hasMany(keys: string[]): Promise<boolean[]>
  clear(): Promise<void>
  disconnect(): Promise<void>
}

/**
 * A shared cache as a storage adapter for Keyv 5, and so for cache-manager 6 and later. What has no TTL there gets the
 * cache's own. Keyv tells of failed writes by its 'error' event.
 *
 * @example
 * import { keyvStore } from 'as-one/keyv'
 * const keyv = new Keyv({ store: keyvStore() })
 * const manager = createCache({ stores: [keyv] }) // of cache-manager
 */
export function keyvStore(given?: Cache): KeyvStore {
  const cache = given ?? sharedCache({ name: 'keyv' })
  const spaces = new Map<string, Cache>()

  /** Keyv has put its namespace before the key, as ours does. */
  function within(key: string): [space: Cache, key: string] {
    const { namespace } = store
    const prefix = `${namespace}:`
    return namespace && key.startsWith(prefix) ? [spaceOf(namespace), key.slice(prefix.length)] : [cache, key]
  }

  function spaceOf(namespace: string): Cache {
    const space = spaces.get(namespace) ?? cache.namespace(namespace)
    if (spaces.size < MAX_SPACES) spaces.set(namespace, space)
    return space
  }

  async function has(key: string): Promise<boolean> {
    const [space, inner] = within(key)
    return space.has(inner)
  }

  async function remove(key: string): Promise<boolean> {
    const [space, inner] = within(key)
    const was = await space.has(inner)
    await space.delete(inner)
    return was
  }

  async function get(key: string): Promise<unknown> {
    const [space, inner] = within(key)
    return space.get(inner)
  }

  async function set(key: string, value: unknown, ttl?: number): Promise<boolean> {
    const [space, inner] = within(key)
    // Keyv leaves undefined to its adapters; here as everywhere it is no value.
    if (value === undefined) await space.delete(inner)
    else await space.set(inner, value, ttl === undefined ? undefined : { ttl })
    return true
  }

  const methods: Omit<KeyvStore, keyof EventEmitter> = {
    opts: { dialect: 'as-one' },
    namespace: undefined,
    get: get as KeyvStore['get'],
    getMany: (keys) => Promise.all(keys.map(get)) as never,
    set,
    async setMany(entries) {
      await Promise.all(entries.map(({ key, value, ttl }) => set(key, value, ttl)))
    },
    delete: remove,
    async deleteMany(keys) {
      return (await Promise.all(keys.map(remove))).some(Boolean)
    },
    has,
    hasMany: (keys) => Promise.all(keys.map(has)),
    clear: () => (store.namespace ? spaceOf(store.namespace) : cache).clear(),
    // Whoever has made the cache closes it.
    disconnect: () => (given ? Promise.resolve() : cache.close()),
  }
  const store: KeyvStore = Object.assign(new EventEmitter(), methods)
  return store
}

const MAX_SPACES = 100

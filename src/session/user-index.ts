import { hash } from 'node:crypto'
import type { Keys } from '../core/keys.ts'
import type { RedisClient } from '../redis/client.ts'
import { runScript } from '../redis/scripts.ts'
import type { SessionRedis } from './availability.ts'
import { NOTE } from './scripts.ts'

/** After this long without any sign of life the index asks whether the session still lives. */
const SLACK_MS = 60_000

/**
 * Which sessions a user has: hashed ids in a sorted set, scored by when they should be over. Only a hint: whoever reads
 * it looks at the sessions themselves, and forgets those that are no more.
 */
export class UserIndex {
  readonly #redis: SessionRedis
  readonly #keys: Keys

  constructor(redis: SessionRedis, keys: Keys) {
    this.#redis = redis
    this.#keys = keys
  }

  /** Notes a session for `lifeMs`, and `forgets` another; looks after a few whose time is over, so that it cannot grow. */
  async note(user: string, id: string, lifeMs: number, forgets = ''): Promise<void> {
    const key = this.#keyOf(user)
    const over = await this.#redis.ask(key, (client) =>
      runScript<string[]>(client, NOTE, [key, id, String(Math.ceil(lifeMs)), forgets]),
    )
    const others = over.filter((each) => each !== id)
    if (others.length > 0) await this.living(user, others)
  }

  /** The hashed ids, living or not. */
  all(user: string): Promise<string[]> {
    const key = this.#keyOf(user)
    return this.#redis.ask(key, (client) => client.zrange(key, '0', '-1'))
  }

  /** Those of `ids` that live and belong to the user; the others are forgotten. */
  async living(user: string, ids: readonly string[]): Promise<string[]> {
    return this.#redis.run(async (client) => {
      const owners = await eachOf(ids, (id) => client.hget(this.#keys.key('session', id), '~user'))
      const dead = ids.filter((_id, index) => owners[index] !== user)
      await this.#forget(client, user, dead)
      const alive = ids.filter((_id, index) => owners[index] === user)
      // Those that have outlived their score get another one, so that they are not looked at each time.
      await eachOf(alive, async (id) => {
        const ttl = await client.pttl(this.#keys.key('session', id))
        const key = this.#keyOf(user)
        if (ttl > 0) await runScript(client, NOTE, [key, id, String(ttl + SLACK_MS), ''])
      })
      return alive
    })
  }

  forget(user: string, ids: readonly string[]): Promise<void> {
    return this.#redis.run((client) => this.#forget(client, user, ids))
  }

  async #forget(client: RedisClient, user: string, ids: readonly string[]): Promise<void> {
    for (let i = 0; i < ids.length; i += CHUNK)
      await client.zrem(this.#keyOf(user), ...ids.slice(i, i + CHUNK))
  }

  #keyOf(user: string): string {
    return this.#keys.key('session-user', hash('sha256', user, 'base64url'))
  }
}

const CHUNK = 200

/** So many at a time that Redis serves others in between. */
export async function eachOf<In, Out>(
  list: readonly In[],
  command: (item: In) => Promise<Out>,
): Promise<Out[]> {
  const replies: Out[] = []
  for (let i = 0; i < list.length; i += CHUNK) {
    replies.push(...(await Promise.all(list.slice(i, i + CHUNK).map(command))))
  }
  return replies
}

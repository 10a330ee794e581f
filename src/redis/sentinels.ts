import type { Redis, RedisOptions } from 'ioredis'
import { withDeadline } from '../core/abort.ts'
import { messageOf } from '../core/errors.ts'
import { reconnectDelayMs } from './client.ts'
import { ioredis } from './ioredis.ts'

/** What the sentinels say of one master. */
export interface Sentinels {
  /**
   * Where it is, by the word of all that answer in time; undefined when none does or they name different ones.
   * The first call connects.
   */
  master(): Promise<string | undefined>
  close(): void
}

const ANSWER_DEADLINE_MS = 1_000

export function openSentinels(options: RedisOptions, connectionName: string): Sentinels {
  const { sentinels = [], name = '', sentinelPassword, sentinelUsername, sentinelTLS, tls } = options
  const secure = sentinelTLS ?? (options.enableTLSForSentinelMode ? tls : undefined)
  const watchers = sentinels.map((address) => {
    const watcher = new (ioredis().Redis)({
      ...address,
      ...(secure && { tls: secure }),
      ...(sentinelPassword && { password: sentinelPassword }),
      ...(sentinelUsername && { username: sentinelUsername }),
      protocol: 2,
      replyMapping: 'legacy',
      stringNumbers: false,
      connectTimeout: ANSWER_DEADLINE_MS,
      maxRetriesPerRequest: null, // the deadline below is enough, and the first question waits for the connection
      retryStrategy: reconnectDelayMs,
      connectionName,
    })
    watcher.on('error', () => {}) // it does not answer then
    return watcher
  })

  async function ask(watcher: Redis): Promise<string | undefined> {
    try {
      const asked = watcher.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', name)
      const answer = await withDeadline(asked, ANSWER_DEADLINE_MS, () => new Error('no answer'))
      return Array.isArray(answer) ? answer.join(' ') : undefined
    } catch (error) {
      return messageOf(error).startsWith('NOPERM') ? NOT_ALLOWED : undefined
    }
  }

  return {
    async master() {
      const answers = (await Promise.all(watchers.map(ask))).filter((answer) => answer !== undefined)
      return new Set(answers).size === 1 ? answers[0] : undefined
    },
    close() {
      for (const watcher of watchers) watcher.disconnect()
    },
  }
}

/** Always the same: who forbids the question has to do without what it would tell. */
const NOT_ALLOWED = 'not allowed to ask'

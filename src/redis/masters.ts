import type { Cluster, Redis, RedisOptions } from 'ioredis'
import { messageOf } from '../core/errors.ts'
import { type Address, addressOf, mapped } from './address.ts'
import type { RedisConnection } from './client.ts'
import { ioredis } from './ioredis.ts'
import { openSentinels } from './sentinels.ts'
import { slotOf } from './slots.ts'
import type { ConnectTarget } from './source.ts'
import { identityIn } from './tracking-link.ts'

/** A server that takes writes. */
export interface Master {
  readonly options: RedisOptions
  /** A key under `prefix` that this master owns, undefined when it owns no slot yet. */
  keyFor(prefix: string): string | undefined
  write(key: string): Promise<unknown>
}

/** All servers that take writes, as they stood at one moment. */
export interface Masters {
  readonly list: readonly Master[]
  /**
   * True if they still are, by their own word; false when that could not be asked.
   *
   * @throws Error when others have taken over, slots have moved, or a server has been restarted
   */
  unchanged(): Promise<boolean>
  close(): void
}

const CONTROL_PROFILE = {
  protocol: 2,
  replyMapping: 'legacy',
  stringNumbers: false,
  lazyConnect: true,
  connectTimeout: 2_000,
  commandTimeout: 1_000,
  retryStrategy: () => null,
} as const satisfies RedisOptions
const PROBE_TTL_MS = 5_000

/**
 * One server, or the one that the sentinels name: the connection for commands must lead to the one we listen to, and
 * no sentinel may know of another one. They are asked before the connections are made, so that none can be older.
 */
export async function singleMaster(
  target: ConnectTarget & { kind: 'server' },
  commands: RedisConnection,
  heard: () => string,
  connectionName: string,
): Promise<Masters> {
  const sentinels = target.options.sentinels ? openSentinels(target.options, connectionName) : undefined
  const named = await sentinels?.master()
  if (sentinels && named === undefined) {
    sentinels.close()
    throw new Error('the sentinels do not name one master')
  }
  return {
    list: [
      {
        options: target.options,
        keyFor: (prefix) => prefix,
        write: async (key) => ((await commands.ready()) as Redis).set(key, '1', 'PX', PROBE_TTL_MS),
      },
    ],
    async unchanged() {
      const client = commands.now as Redis | undefined
      if (!client) return false
      let identity: string
      try {
        identity = identityIn(await client.info('server', 'replication'))
      } catch (error) {
        if (!messageOf(error).startsWith('NOPERM')) return false
        identity = ''
      }
      if (identity !== heard())
        throw new Error('commands reach another server than the one that is listened to')
      if (identity.endsWith('slave')) throw new Error('the server is a replica')
      if (!sentinels) return true
      const now = await sentinels.master()
      if (now !== undefined && now !== named) throw new Error('the sentinels name another master')
      return now === named
    },
    close() {
      sentinels?.close()
    },
  }
}

/**
 * All masters of a Redis Cluster, those without slots too, since a slot on its way to one is written there before
 * anybody calls it an owner. Each is asked for its own view: one alone may be behind.
 */
export async function clusterMasters(
  target: ConnectTarget & { kind: 'cluster' },
  attempt: number,
  connectionName: string,
): Promise<Masters> {
  const controls: Redis[] = []
  const connect = async (address: Address): Promise<Redis> => {
    const control = new (ioredis().Redis)({
      ...target.options.redisOptions,
      ...address,
      ...CONTROL_PROFILE,
      connectionName,
    })
    controls.push(control)
    control.on('error', () => {}) // the rejected command says it
    await control.connect()
    return control
  }
  const close = (): void => {
    for (const control of controls) control.disconnect()
  }
  try {
    const seeds = target.nodes.map(addressOf)
    const seed = seeds[attempt % seeds.length] as Address
    const shards = await shardsOf(await connect(seed), seed)
    const masters = await Promise.all(
      shards.map(async (shard) => {
        const address = mapped(shard.address, target.options.natMap ?? undefined)
        return { shard, address, control: await connect(address) }
      }),
    )
    controls.shift()?.disconnect()
    const known = viewOf(shards)
    return {
      list: masters.map(({ shard, address, control }) => ({
        options: { ...target.options.redisOptions, ...address },
        keyFor: (prefix) => keyIn(shard.slots, prefix),
        write: (key) => control.set(key, '1', 'PX', PROBE_TTL_MS),
      })),
      async unchanged() {
        const views = await Promise.all(
          masters.map(async ({ shard, control }) => viewOf(await shardsOf(control, shard.address))),
        )
        if (views.every((view) => view === known)) return true
        throw new Error('masters or slots of the Cluster have changed')
      },
      close,
    }
  } catch (error) {
    close()
    throw error
  }
}

interface Shard {
  readonly id: string
  readonly address: Address
  /** First and last slot of each range. */
  readonly slots: readonly number[]
}

/** The masters that node `here` knows. One that has failed and owns nothing cannot take a write. */
async function shardsOf(node: Redis | Cluster, here: Address): Promise<readonly Shard[]> {
  const reply = (await node.call('CLUSTER', 'SHARDS')) as readonly unknown[][]
  const shards = reply.flatMap((fields) => {
    const shard = recordOf(fields)
    const slots = (shard.slots as unknown[]).map(Number)
    const nodes = (shard.nodes as unknown[][]).map(recordOf)
    const master = nodes.find(({ role }) => role === 'master')
    if (!master || (slots.length === 0 && master.health !== 'online')) return []
    const host = [master.endpoint, master.ip].find((name) => name && name !== '?') ?? here.host
    const port = Number(master['tls-port'] ?? master.port)
    return [{ id: String(master.id), address: { host: String(host), port }, slots }]
  })
  if (shards.length === 0) throw new Error('the Cluster names no master')
  return shards
}

/** RESP2 sends a map as a list of names and values. */
function recordOf(fields: readonly unknown[]): Record<string, unknown> {
  const record: Record<string, unknown> = {}
  for (let i = 0; i + 1 < fields.length; i += 2) record[String(fields[i])] = fields[i + 1]
  return record
}

function viewOf(shards: readonly Shard[]): string {
  return shards
    .map(({ id, slots }) => `${id} ${slots.join()}`)
    .sort()
    .join('\n')
}

function keyIn(slots: readonly number[], prefix: string): string | undefined {
  if (slots.length === 0) return undefined
  for (let tag = 0; ; tag++) {
    const key = `${prefix}{${tag}}`
    const slot = slotOf(key)
    for (let i = 0; i < slots.length; i += 2)
      if ((slots[i] as number) <= slot && slot <= (slots[i + 1] as number)) return key
  }
}

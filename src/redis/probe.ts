import { messageOf } from '../core/errors.ts'
import { versionOf } from './version.ts'

/** The little that a probe asks of an ioredis client, connected to one server. */
export interface ProbeClient {
  call(command: string, ...args: string[]): Promise<unknown>
}

/** What a server says about itself, as far as it lets itself be asked. */
export interface RedisFacts {
  readonly product: 'redis' | 'valkey' | undefined
  readonly version: string | undefined
  readonly role: 'master' | 'replica' | undefined
  /** Why CLIENT TRACKING is not permitted; undefined if it is. */
  readonly trackingRefused: string | undefined
  /** 0 without a limit. */
  readonly maxMemoryBytes: number | undefined
  readonly evictionPolicy: string | undefined
  readonly persistence: 'aof' | 'rdb' | 'none' | undefined
}

/** Asks one server for what `as-one` depends on. Changes nothing but the connection's own tracking, which it resets. */
export async function probeRedis(client: ProbeClient): Promise<RedisFacts> {
  const info = await infoOf(client)
  const field = (name: string): string | undefined => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1]
  const maxMemory = field('maxmemory')
  const role = field('role')
  const found = versionOf(info)
  return {
    product: found?.server,
    version: found?.version,
    role: role === undefined ? undefined : role === 'master' ? 'master' : 'replica',
    trackingRefused: await tryTracking(client),
    maxMemoryBytes: maxMemory === undefined ? undefined : Number(maxMemory),
    evictionPolicy: field('maxmemory_policy'),
    persistence: field('aof_enabled') === '1' ? 'aof' : await snapshots(client),
  }
}

async function infoOf(client: ProbeClient): Promise<string> {
  try {
    return String(await client.call('INFO'))
  } catch (error) {
    if (isForbidden(error)) return '' // the facts then stay undefined, and doctor says so
    throw error
  }
}

async function tryTracking(client: ProbeClient): Promise<string | undefined> {
  try {
    const id = String(await client.call('CLIENT', 'ID'))
    await client.call('CLIENT', 'TRACKING', 'ON', 'REDIRECT', id, 'BCAST', 'PREFIX', 'as-one:doctor:')
    await client.call('CLIENT', 'TRACKING', 'OFF')
    return undefined
  } catch (error) {
    if (isReply(error)) return messageOf(error)
    throw error
  }
}

/** INFO does not tell whether snapshots are on, and hosted servers often forbid CONFIG. */
async function snapshots(client: ProbeClient): Promise<RedisFacts['persistence']> {
  try {
    const reply = await client.call('CONFIG', 'GET', 'save')
    const save = Array.isArray(reply) ? reply[1] : undefined
    return save === undefined ? undefined : save === '' ? 'none' : 'rdb'
  } catch (error) {
    if (isReply(error)) return undefined
    throw error
  }
}

/** An error the server answered with, as opposed to one of the connection. */
function isReply(error: unknown): boolean {
  return error instanceof Error && error.name === 'ReplyError'
}

function isForbidden(error: unknown): boolean {
  return isReply(error) && /^(NOPERM|ERR unknown command)/i.test(messageOf(error))
}

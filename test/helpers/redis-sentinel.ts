import { Redis } from 'ioredis'
import { track } from './cleanup.ts'
import { type ClientOptions, type PrivateRedis, spawnRedis } from './redis-server.ts'
import { until } from './until.ts'

export interface SentinelOptions {
  /** @default 1 */
  replicas?: number
  /** The majority of them is the quorum. @default 3 */
  sentinels?: number
  /** @default 'mymaster' */
  name?: string
  /** Milliseconds of silence until a master counts as down. @default 500 */
  downAfter?: number
}

export interface SentinelSetup extends AsyncDisposable {
  /** `redis+sentinel://127.0.0.1:port,127.0.0.1:port/name` */
  readonly url: string
  readonly name: string
  /** The first master and its replicas, in the order of their start. */
  readonly servers: readonly PrivateRedis[]
  readonly sentinels: readonly PrivateRedis[]
  /** Whom all running sentinels name; waits until they agree and it says itself that it is one. */
  master(): Promise<PrivateRedis>
  /** A planned failover; resolves to the new master when all running servers follow it. */
  failover(): Promise<PrivateRedis>
  /** A connection that follows the master, closed by stop(). */
  client(options?: ClientOptions): Redis
  stop(): Promise<void>
}

// After a vote that nobody won, as busy machines have them, the next one comes 6 s later: deadlines have room for some.

// A sentinel looks around every 10 s and says hello every 2 s: a test has no time for that.
const impatience = [
  'info-period',
  '200',
  'ping-period',
  '100',
  'election-timeout',
  '1000',
  'publish-period',
  '100',
  // On a machine that has stood still for 2 s a sentinel does nothing at all for half a minute.
  'tilt-period',
  '500',
]

// Once acquainted they must not be that quick any more: after four such periods a sentinel turns a master it did
// not expect back into a replica, and the one that leads a failover looks at its candidate only once a second.
const acquainted = ['publish-period', '1000']

// On the master's side, and any server may become one: a replica would wait 5 s for others to join it.
const promptSync = ['--repl-diskless-sync-delay', '0']

/** For looking: an answer now or an error, never a queue behind a dead server. */
const looking: ClientOptions = {
  maxRetriesPerRequest: 1,
  commandTimeout: 500,
  retryStrategy: () => 50,
}

export async function startSentinel(options: SentinelOptions = {}): Promise<SentinelSetup> {
  const { replicas = 1, sentinels: watchers = 3, name = 'mymaster', downAfter = 500 } = options
  const servers: PrivateRedis[] = []
  const sentinels: PrivateRedis[] = []
  const lookers = new Map<PrivateRedis, Redis>()
  const clients: Redis[] = []

  async function ask(server: PrivateRedis, command: string, ...args: string[]): Promise<unknown> {
    const client = lookers.get(server) ?? server.client(looking)
    lookers.set(server, client)
    return client.call(command, ...args)
  }

  async function roleOf(server: PrivateRedis): Promise<{ role: string; masterPort?: number; link?: string }> {
    const [role, , masterPort, link] = (await ask(server, 'ROLE')) as [string, unknown, number, string]
    return role === 'master' ? { role } : { role, masterPort, link }
  }

  async function agreedMaster(): Promise<PrivateRedis | undefined> {
    const running = sentinels.filter((sentinel) => sentinel.running)
    const named = await Promise.all(
      running.map((each) => ask(each, 'SENTINEL', 'get-master-addr-by-name', name)),
    )
    const ports = new Set((named as [string, string][]).map(([, port]) => Number(port)))
    const master = servers.find((server) => ports.size === 1 && ports.has(server.port))
    return master?.running && (await roleOf(master)).role === 'master' ? master : undefined
  }

  async function everyoneFollows(master: PrivateRedis): Promise<boolean> {
    const others = servers.filter((server) => server !== master && server.running)
    const roles = await Promise.all(others.map(roleOf))
    return roles.every(({ masterPort, link }) => masterPort === master.port && link === 'connected')
  }

  async function tune(settings: readonly string[]): Promise<void> {
    const running = sentinels.filter((sentinel) => sentinel.running)
    // On a busy machine an answer may take longer than a look has.
    const told = (sentinel: PrivateRedis): Promise<unknown> =>
      until(() => ask(sentinel, 'SENTINEL', 'debug', ...settings), { what: 'a sentinel to be tuned' })
    await Promise.all(running.map(told))
  }

  /** All sentinels know the replicas and each other: before that a failover would be refused. */
  async function everyoneIsKnown(): Promise<boolean> {
    const views = await Promise.all(sentinels.map((sentinel) => ask(sentinel, 'SENTINEL', 'master', name)))
    return (views as string[][]).every((fields) => {
      const field = (wanted: string) => Number(fields[fields.indexOf(wanted) + 1])
      return field('num-slaves') === replicas && field('num-other-sentinels') === watchers - 1
    })
  }

  const setup: SentinelSetup = {
    get url() {
      return `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}/${name}`
    },
    name,
    servers,
    sentinels,
    master: () => until(agreedMaster, { what: 'the sentinels to agree on a master', deadline: 60_000 }),
    async failover() {
      const old = await setup.master()
      const commander = sentinels.find((sentinel) => sentinel.running)!
      // Refused while an earlier one is under way or a replica has not been seen lately.
      await until(() => ask(commander, 'SENTINEL', 'failover', name), {
        what: 'a failover to be accepted',
        deadline: 60_000,
      })
      const follow = { what: 'the failover to be complete', deadline: 60_000 }
      const master = await until(async () => {
        const agreed = await agreedMaster()
        return agreed !== old && agreed
      }, follow)
      // All agree, so now it is the old master that shall be turned soon.
      await tune(impatience)
      await until(() => everyoneFollows(master), follow)
      await tune(acquainted)
      return master
    },
    client(clientOptions: ClientOptions = {}) {
      const addresses = sentinels.map(({ port }) => ({ host: '127.0.0.1', port }))
      const client = new Redis({ sentinels: addresses, name, ...clientOptions })
      client.on('error', () => {}) // commands reject anyway
      clients.push(client)
      return client
    },
    async stop() {
      for (const client of clients) client.disconnect()
      // Sentinels first, or they would promote replicas of a master that is being stopped.
      await Promise.all(sentinels.map((sentinel) => sentinel.stop()))
      await Promise.all(servers.map((server) => server.stop()))
    },
    [Symbol.asyncDispose]: () => setup.stop(),
  }
  track(setup)

  const master = await spawnRedis({ args: promptSync })
  servers.push(master)
  const following = Array.from({ length: replicas }, () =>
    spawnRedis({
      args: ['--replicaof', '127.0.0.1', String(master.port), '--repl-diskless-sync-delay', '0'],
    }),
  )
  servers.push(...(await Promise.all(following)))
  await until(() => everyoneFollows(master), { what: 'the replicas to be in sync' })

  const config = [
    `sentinel monitor ${name} 127.0.0.1 ${master.port} ${Math.floor(watchers / 2) + 1}`,
    `sentinel down-after-milliseconds ${name} ${downAfter}`,
    `sentinel failover-timeout ${name} 3000`,
  ].join('\n')
  const watching = Array.from({ length: watchers }, () => spawnRedis({ config, args: ['--sentinel'] }))
  sentinels.push(...(await Promise.all(watching)))
  await tune(impatience)
  await until(everyoneIsKnown, { what: 'the sentinels to know everyone', deadline: 60_000 })
  await tune(acquainted)
  return setup
}

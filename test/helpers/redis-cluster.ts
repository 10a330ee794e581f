import { Cluster, type Redis } from 'ioredis'
import { track } from './cleanup.ts'
import { type PrivateRedis, type RedisServerOptions, spawnRedis } from './redis-server.ts'
import { until } from './until.ts'

export interface RedisClusterOptions {
  /** @default 3 */
  masters?: number
  /** Per master. @default 0 */
  replicas?: number
  /** Milliseconds of silence until a node counts as failed. @default 1000, without replicas 60000 */
  nodeTimeout?: number
  args?: readonly string[]
}

export type ClusterClientOptions = NonNullable<ConstructorParameters<typeof Cluster>[1]>

export interface ClusterNode extends PrivateRedis {
  /** As in CLUSTER NODES. */
  readonly id: string
}

export interface RedisCluster extends AsyncDisposable {
  /** `redis+cluster://127.0.0.1:port,127.0.0.1:port` */
  readonly url: string
  /** Masters first, replicas after them, later ones at the end. */
  readonly nodes: readonly ClusterNode[]
  /** The node that serves this key now. */
  ownerOf(key: string): Promise<ClusterNode>
  /** A further master without slots, known to all. */
  addMaster(): Promise<ClusterNode>
  /** Moves these slots, or this many of them, with their keys while clients go on; resolves to the slots. */
  moveSlots(from: ClusterNode, to: ClusterNode, slots: readonly number[] | number): Promise<number[]>
  /** Resolves when all running nodes see all slots served and each other. */
  settled(): Promise<void>
  /** A cluster connection, closed by stop(). */
  client(options?: ClusterClientOptions): Cluster
  stop(): Promise<void>
}

const slotCount = 16_384

export async function startRedisCluster(options: RedisClusterOptions = {}): Promise<RedisCluster> {
  const { masters = 3, replicas = 0, args = [] } = options
  // Where nobody can take over, a node that is thought to have failed is one that a busy machine held up.
  const { nodeTimeout = replicas > 0 ? 1_000 : 60_000 } = options
  const nodes: ClusterNode[] = []
  const lookers = new Map<PrivateRedis, Redis>()
  const clients: Cluster[] = []

  function to(node: PrivateRedis): Redis {
    const looker =
      lookers.get(node) ??
      node.client({ maxRetriesPerRequest: 1, commandTimeout: 2_000, retryStrategy: () => 50 })
    lookers.set(node, looker)
    return looker
  }

  const running = () => nodes.filter((node) => node.running)

  async function startNode(): Promise<ClusterNode> {
    const own = ['--cluster-enabled', 'yes', '--cluster-node-timeout', String(nodeTimeout)]
    const server: RedisServerOptions = {
      clusterBus: true,
      args: [...own, '--repl-diskless-sync-delay', '0', ...args],
    }
    const node = await spawnRedis(server)
    const id = (await to(node).call('CLUSTER', 'MYID')) as string
    // Its getters must stay getters: pid and running change.
    return Object.defineProperty(node as ClusterNode, 'id', { value: id, enumerable: true })
  }

  /** Everyone with everyone: gossip would get there too, only slower. */
  async function introduce(newcomers: readonly ClusterNode[]): Promise<void> {
    for (const node of running()) {
      for (const other of newcomers) {
        if (node !== other) await to(node).call('CLUSTER', 'MEET', '127.0.0.1', other.port)
      }
    }
  }

  async function infoOf(node: ClusterNode): Promise<Map<string, string>> {
    const info = (await to(node).call('CLUSTER', 'INFO')) as string
    return new Map(info.split('\r\n').map((line) => line.split(':', 2) as [string, string]))
  }

  /** The ids of the nodes this one is in contact with, itself included. */
  async function contactsOf(node: ClusterNode): Promise<string[]> {
    const lines = ((await to(node).call('CLUSTER', 'NODES')) as string).trim().split('\n')
    return lines.filter((line) => !/handshake|noaddr/.test(line)).map((line) => line.split(' ', 1)[0]!)
  }

  async function isSettled(): Promise<boolean> {
    for (const node of running()) {
      const info = await infoOf(node)
      if (info.get('cluster_state') !== 'ok' || info.get('cluster_slots_ok') !== String(slotCount))
        return false
      const contacts = await contactsOf(node)
      if (!running().every(({ id }) => contacts.includes(id))) return false
    }
    return true
  }

  async function owner(slot: number, asked: ClusterNode = running()[0]!): Promise<ClusterNode> {
    const ranges = (await to(asked).call('CLUSTER', 'SLOTS')) as [number, number, [string, number, string]][]
    const range = ranges.find(([first, last]) => first <= slot && slot <= last)
    const node = nodes.find(({ id }) => id === range?.[2][2])
    if (!node) throw new Error(`slot ${slot} has no owner`)
    return node
  }

  async function slotsOf(node: ClusterNode): Promise<number[]> {
    const ranges = (await to(node).call('CLUSTER', 'SLOTS')) as [number, number, [string, number, string]][]
    return ranges
      .filter(([, , [, , id]]) => id === node.id)
      .flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, at) => first + at))
  }

  async function moveSlot(slot: number, from: ClusterNode, target: ClusterNode): Promise<void> {
    // This order, or a client could be sent to a node that does not know yet that it may answer.
    await to(target).call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', from.id)
    await to(from).call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', target.id)
    for (;;) {
      const keys = (await to(from).call('CLUSTER', 'GETKEYSINSLOT', slot, 100)) as string[]
      if (keys.length === 0) break
      await to(from).call('MIGRATE', '127.0.0.1', target.port, '', 0, 5_000, 'KEYS', ...keys)
    }
    // The new owner first: should all stop here, the slot has one.
    const others = running().filter((node) => node !== target && node !== from)
    for (const node of [target, from, ...others]) {
      // A replica takes it from its master.
      if (((await to(node).call('ROLE')) as unknown[])[0] !== 'master') continue
      await to(node).call('CLUSTER', 'SETSLOT', slot, 'NODE', target.id)
    }
  }

  const cluster: RedisCluster = {
    get url() {
      return `redis+cluster://${nodes.map(({ port }) => `127.0.0.1:${port}`).join(',')}`
    },
    nodes,
    async ownerOf(key) {
      const asked = running()[0]!
      return owner((await to(asked).call('CLUSTER', 'KEYSLOT', key)) as number, asked)
    },
    async addMaster() {
      const node = await startNode()
      nodes.push(node)
      await introduce([node])
      await cluster.settled()
      return node
    },
    async moveSlots(from, target, slots) {
      const moving = typeof slots === 'number' ? (await slotsOf(from)).slice(0, slots) : [...slots]
      for (const slot of moving) await moveSlot(slot, from, target)
      return moving
    },
    settled: async () => {
      await until(isSettled, { what: 'all cluster nodes to see all slots and each other', deadline: 60_000 })
    },
    client(clientOptions: ClusterClientOptions = {}) {
      const addresses = nodes.map(({ port }) => ({ host: '127.0.0.1', port }))
      const client = new Cluster(addresses, clientOptions)
      client.on('error', () => {}) // commands reject anyway
      clients.push(client)
      return client
    },
    async stop() {
      for (const client of clients) client.disconnect()
      await Promise.all(nodes.map((node) => node.stop()))
    },
    [Symbol.asyncDispose]: () => cluster.stop(),
  }
  track(cluster)

  nodes.push(...(await Promise.all(Array.from({ length: masters * (1 + replicas) }, startNode))))
  const share = slotCount / masters
  for (const [at, node] of nodes.slice(0, masters).entries()) {
    // Epochs of their own, or the nodes would spend the first seconds settling a conflict.
    await to(node).call('CLUSTER', 'SET-CONFIG-EPOCH', at + 1)
    const [first, last] = [Math.floor(at * share), Math.floor((at + 1) * share) - 1]
    await to(node).call('CLUSTER', 'ADDSLOTSRANGE', first, last)
  }
  await introduce(nodes)
  await cluster.settled()

  for (const [at, replica] of nodes.slice(masters).entries()) {
    const master = nodes[at % masters]!
    await to(replica).call('CLUSTER', 'REPLICATE', master.id)
  }
  const inSync = async (replica: ClusterNode) =>
    ((await to(replica).call('ROLE')) as unknown[])[3] === 'connected'
  for (const replica of nodes.slice(masters)) {
    await until(() => inSync(replica), { what: 'a cluster replica to be in sync', deadline: 60_000 })
  }
  return cluster
}

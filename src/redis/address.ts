import type { ClusterOptions } from 'ioredis'

/** Where a node of a Redis Cluster is. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** One of the forms in which ioredis takes a node. */
export function addressOf(node: unknown): Address {
  if (typeof node === 'object' && node !== null) {
    const { host = 'localhost', port = 6379 } = node as Partial<Address>
    return { host, port }
  }
  const text = String(node)
  const match = /^(?:rediss?:\/\/)?(?:[^@]*@)?(.*?):?(\d+)?\/?$/.exec(text)
  return { host: match?.[1] || 'localhost', port: Number(match?.[2] ?? 6379) }
}

/** Where that node is for us, when the cluster's own addresses do not lead there. */
export function mapped(address: Address, natMap: ClusterOptions['natMap'] | undefined): Address {
  const key = `${address.host}:${address.port}`
  return (typeof natMap === 'function' ? natMap(key) : natMap?.[key]) ?? address
}

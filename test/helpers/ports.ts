import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:net'

// Below the ephemeral ports (32768 and up on Linux): there any outgoing connection may take the port while its
// server is down, and a server that is killed and started again on its port would fail now and then.
const lowest = 10_000
const highest = 32_000

/** How far a Redis Cluster node's bus port lies above its own. */
export const clusterBusOffset = 10_000

/** A random port nobody listens on. Another process may be quicker: who can, tries again with another one. */
export async function freePort({ clusterBus = false }: { clusterBus?: boolean } = {}): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = randomInt(lowest, clusterBus ? highest - clusterBusOffset : highest)
    if ((await isFree(port)) && (!clusterBus || (await isFree(port + clusterBusOffset)))) return port
  }
  throw new Error(`no free port between ${lowest} and ${highest} after 100 attempts`)
}

export async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  try {
    server.listen(port)
    await once(server, 'listening')
  } catch {
    return false
  }
  server.close()
  await once(server, 'close')
  return true
}

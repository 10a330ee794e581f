import { once } from 'node:events'
import { createServer } from 'node:net'

/** A port nobody listens on. Below the ephemeral ones, which any outgoing connection may take meanwhile. */
export async function freePort() {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = 10_000 + Math.floor(Math.random() * 22_000)
    const server = createServer().listen(port, '127.0.0.1')
    try {
      await once(server, 'listening')
    } catch {
      continue
    }
    server.close()
    await once(server, 'close')
    return port
  }
  throw new Error('no free port after 100 attempts')
}

import { rm, stat } from 'node:fs/promises'
import { createConnection } from 'node:net'

/**
 * Removes the socket file that a killed primary has left behind: nobody can listen on a path that exists. One that
 * somebody answers on stays, and so does a file that is no socket.
 */
export async function removeStaleSocket(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined) // what cannot be looked at is for listen() to explain
  if (found?.isSocket() && (await isRefused(path))) await rm(path, { force: true })
}

function isRefused(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(false)
    })
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'))
  })
}

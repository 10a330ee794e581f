import { chmodSync, rmSync, statSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { parseSafely } from '../core/json.ts'
import { underLock } from '../redis/local-redis-lock.ts'
import { type AppFiles, prepareAppDir } from './apps-dir.ts'
import { isAnswered } from './control-client.ts'
import {
  type ControlReply,
  type ControlRequest,
  encode,
  lineReader,
  MAX_LINE_BYTES,
  PROTOCOL,
} from './control-protocol.ts'

/** Does what a client asks; each call of `reply` is a line to it. What it throws becomes an error line. */
export type ControlHandler = (
  request: ControlRequest,
  reply: (line: DistributiveOmit<ControlReply, 'v'>) => void,
) => Promise<void>

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never

export interface ControlServer {
  close(): void
}

export class NameTaken extends SharedStateError {
  constructor(name: string) {
    super(
      'ERR_AS_ONE_CONTROL',
      `${name} runs already: as-one reload ${name}, or give this one another --name`,
    )
  }
}

const MAX_CLIENTS = 32
/** For a request to come; how long an answer takes depends on what is asked. */
const REQUEST_DEADLINE_MS = 5_000

/**
 * Takes an app's name, for as long as this process lives, and listens for orders: from this user alone, since the
 * directory is 0700 and the socket 0600.
 *
 * @throws NameTaken when an app of this name runs already, SharedStateError when there is no place for the socket
 */
export async function openControl(
  name: string,
  files: AppFiles,
  handler: ControlHandler,
): Promise<ControlServer> {
  await prepareAppDir(files)
  const server = createServer((socket) => serve(socket, handler))
  server.maxConnections = MAX_CLIENTS
  await underLock(files, { ref: true }, async () => {
    if (await isAnswered(files.socket)) {
      throw new NameTaken(name)
    }
    rmSync(files.socket, { force: true }) // left by a primary that was killed
    await listen(server, files.socket)
    chmodSync(files.socket, 0o600)
  })
  const own = statSync(files.socket).ino
  const close = (): void => {
    server.close()
    try {
      if (statSync(files.socket).ino === own) rmSync(files.socket)
    } catch {
      // taken away with its directory
    }
  }
  process.once('exit', close)
  return {
    close() {
      process.off('exit', close)
      close()
    },
  }
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, () => {
      server.off('error', reject)
      server.on('error', () => {}) // a client that could not be accepted is told by its own error
      resolve()
    })
  })
}

function serve(socket: Socket, handler: ControlHandler): void {
  const reply = (line: DistributiveOmit<ControlReply, 'v'>): void => {
    if (socket.writable) socket.write(encode(line as Omit<ControlReply, 'v'>))
  }
  const fail = (code: string, message: string): void => {
    reply({ type: 'error', code, message })
    socket.end()
  }
  let asked = false
  const deadline = setTimeout(() => socket.destroy(), REQUEST_DEADLINE_MS).unref()
  socket.on('error', () => {}) // it has gone; what it asked for goes on
  socket.once('close', () => clearTimeout(deadline))
  const onLine = (line: string): void => {
    if (asked) return
    asked = true
    clearTimeout(deadline)
    let request: ControlRequest
    try {
      request = requestIn(line)
    } catch (error) {
      fail('ERR_AS_ONE_CONTROL', messageOf(error))
      return
    }
    handler(request, reply).then(
      () => socket.end(),
      (error: unknown) =>
        fail(error instanceof SharedStateError ? error.code : 'ERR_AS_ONE_CONTROL', messageOf(error)),
    )
  }
  socket.on(
    'data',
    lineReader(onLine, () => fail('ERR_AS_ONE_CONTROL', `a request may have ${MAX_LINE_BYTES} bytes`)),
  )
}

function requestIn(line: string): ControlRequest {
  let request: Partial<Record<keyof ControlRequest, unknown>>
  try {
    request = parseSafely(line) as typeof request
  } catch {
    throw new Error('a request is one line of JSON')
  }
  if (request?.v !== PROTOCOL)
    throw new Error(
      `this app was started by another release of as-one: it understands version ${PROTOCOL} of the control protocol, not ${String(request?.v)}; restart it with this release, or use the one it was started with`,
    )
  const commands = ['status', 'reload', 'restart', 'scale', 'stop']
  if (!commands.includes(String(request.command)))
    throw new Error(`command must be one of ${commands.join(', ')}`)
  for (const key of ['to', 'env'] as const)
    if (request[key] !== undefined && typeof request[key] !== 'string')
      throw new Error(`${key} must be a text`)
  return request as ControlRequest
}

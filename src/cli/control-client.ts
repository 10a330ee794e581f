import { lstat } from 'node:fs/promises'
import { createConnection, type Socket } from 'node:net'
import { dirname } from 'node:path'
import type { WorkerStatus } from '../cluster/index.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { parseSafely } from '../core/json.ts'
import { appFiles } from './apps-dir.ts'
import {
  type AppStatus,
  type ControlReply,
  type ControlRequest,
  encode,
  lineReader,
  MAX_LINE_BYTES,
  PROTOCOL,
} from './control-protocol.ts'

/** For the first line of an answer; a primary whose loop is blocked does not hold up the others. */
const ANSWER_DEADLINE_MS = 3_000
const MAX_WORKERS = 4_096

export type Reachable =
  | { readonly state: 'runs'; readonly status: AppStatus }
  /** It has taken the connection, and said nothing. */
  | { readonly state: 'silent' }
  /** `died`: a socket without a primary behind it. */
  | { readonly state: 'stopped' | 'died' }

/** @throws SharedStateError `ERR_AS_ONE_CONTROL` when the socket is not ours alone */
export async function statusOf(name: string): Promise<Reachable> {
  const { socket } = appFiles(name)
  let app: Omit<AppStatus, 'workers'> | undefined
  const workers: WorkerStatus[] = []
  try {
    await ask(name, { command: 'status' }, (line) => {
      if (line.type === 'app') app = line.app
      if (line.type === 'worker' && workers.length < MAX_WORKERS) workers.push(line.worker)
    })
  } catch (error) {
    const { reason } = error as NotReached
    if (error instanceof NotReached && reason === 'silent') return { state: 'silent' }
    if (error instanceof NotReached && reason !== 'foreign')
      return { state: (await exists(socket)) ? 'died' : 'stopped' }
    throw error
  }
  if (!app) throw new NotReached('silent', `${name} does not tell its status`)
  return { state: 'runs', status: { ...app, workers } }
}

/**
 * Has an app do something. Resolves with its last word.
 *
 * @throws SharedStateError with what the app answers, or `ERR_AS_ONE_CONTROL` when nobody does
 */
export async function ask(
  name: string,
  request: Omit<ControlRequest, 'v'>,
  onLine: (line: ControlReply) => void = () => {},
): Promise<string | undefined> {
  const { socket: path } = appFiles(name)
  await checkOwner(path)
  const socket = await connect(name, path)
  return new Promise((resolve, reject) => {
    let outcome: ControlReply | undefined
    const deadline = setTimeout(() => {
      reject(
        new NotReached(
          'silent',
          `${name} has not answered within ${ANSWER_DEADLINE_MS / 1_000} s: its primary hangs`,
        ),
      )
      socket.destroy()
    }, ANSWER_DEADLINE_MS)
    if (request.command !== 'status') clearTimeout(deadline)
    const read = lineReader(
      (text) => {
        clearTimeout(deadline)
        const line = replyIn(text)
        if (!line) {
          reject(
            new SharedStateError(
              'ERR_AS_ONE_CONTROL',
              `${name} answers in another version of the control protocol: use the release of as-one that started it`,
            ),
          )
          socket.destroy()
        } else if (line.type === 'done' || line.type === 'error') outcome = line
        else onLine(line)
      },
      () => socket.destroy(new Error(`a line of more than ${MAX_LINE_BYTES} bytes`)),
    )
    socket.on('data', read)
    socket.once('error', (error) => reject(new NotReached('gone', `${name}: ${messageOf(error)}`)))
    socket.once('close', () => {
      clearTimeout(deadline)
      if (outcome?.type === 'done') resolve(outcome.text)
      else if (outcome?.type === 'error')
        reject(new SharedStateError(outcome.code as 'ERR_AS_ONE_CONTROL', outcome.message))
      else reject(new NotReached('gone', `${name} ended before it had answered`))
    })
    socket.write(encode({ v: PROTOCOL, ...request }))
  })
}

/** Why there is no answer. */
export class NotReached extends SharedStateError {
  readonly reason: 'absent' | 'refused' | 'silent' | 'gone' | 'foreign'

  constructor(reason: NotReached['reason'], message: string) {
    super('ERR_AS_ONE_CONTROL', message)
    this.reason = reason
  }
}

/** Before the connection: whoever could put a socket there would get our orders, and we their answers. */
async function checkOwner(path: string): Promise<void> {
  for (const each of [dirname(path), path]) {
    const found = await lstat(each).catch((error: NodeJS.ErrnoException) => {
      throw new NotReached('absent', `there is nothing at ${each} (${error.code})`)
    })
    const refuse = (what: string): NotReached =>
      new NotReached('foreign', `${each} ${what}: not connected to`)
    if (each === path && !found.isSocket()) throw refuse('is no socket')
    if (each !== path && !found.isDirectory()) throw refuse('is no directory')
    const uid = process.getuid?.()
    if (uid !== undefined && found.uid !== uid)
      throw refuse(`belongs to user id ${found.uid}, this process runs as ${uid}`)
    if (found.mode & 0o077) throw refuse(`is open to others (mode 0${(found.mode & 0o777).toString(8)})`)
  }
}

function connect(name: string, path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path)
    socket.once('connect', () => resolve(socket))
    socket.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        new NotReached(
          error.code === 'ECONNREFUSED' ? 'refused' : 'gone',
          `${name} does not run (${error.code} at ${path})`,
        ),
      ),
    )
  })
}

/** Whether somebody listens there, whoever it is. */
export async function isAnswered(path: string): Promise<boolean> {
  return connect('', path).then(
    (socket) => {
      socket.destroy()
      return true
    },
    () => false,
  )
}

function replyIn(text: string): ControlReply | undefined {
  try {
    const line = parseSafely(text) as ControlReply
    return line?.v === PROTOCOL ? line : undefined
  } catch {
    return undefined
  }
}

function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  )
}

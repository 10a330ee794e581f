import { closeSync, mkdirSync, openSync, write, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { messageOf, SharedStateError } from '../core/errors.ts'

/** What waits to be written; beyond it lines are dropped and counted, since a slow disk must not eat the memory of the primary. */
const MAX_WAITING_BYTES = 8 << 20

/** Appends lines; a full disk costs lines, never the app, and they are counted. */
export interface LogFile {
  readonly path: string
  append(line: string): void
  /** After the file was moved away, by logrotate for one. */
  reopen(): void
  /** Writes what waits at once, as the last act of a process. */
  close(): void
}

/** @throws SharedStateError `ERR_AS_ONE_ECOSYSTEM` that names the file when it cannot be opened */
export function openLogFile(path: string): LogFile {
  let fd: number
  try {
    makeDirectory(dirname(path))
    fd = open(path)
  } catch (error) {
    throw new SharedStateError(
      'ERR_AS_ONE_ECOSYSTEM',
      `the log file ${path} cannot be opened: ${messageOf(error)}`,
      { cause: error },
    )
  }
  let waiting: string[] = []
  let waitingBytes = 0
  let writing: Buffer | undefined
  let lost = 0
  let reason = ''
  let closed = false

  const take = (): Buffer => {
    const note = lost > 0 ? `as-one: ${lost} lines lost: ${reason}\n` : ''
    const chunk = Buffer.from(note + waiting.join(''))
    waiting = []
    waitingBytes = 0
    return chunk
  }
  const next = (): void => {
    if (writing || waiting.length === 0 || closed) return
    const lines = waiting.length
    const chunk = take()
    writing = chunk
    const step = (from: number): void => {
      write(fd, chunk, from, chunk.length - from, null, (error, written) => {
        if (closed) return // close() has written the rest
        if (error) {
          lost += lines
          reason = messageOf(error)
        } else if (from + written < chunk.length) {
          writing = chunk.subarray(from + written)
          return step(from + written)
        } else lost = 0
        writing = undefined
        next()
      })
    }
    step(0)
  }

  return {
    path,
    append(line) {
      if (closed) return
      if (waitingBytes > MAX_WAITING_BYTES) {
        lost += 1
        reason = 'the disk is too slow'
        return
      }
      waiting.push(`${line}\n`)
      waitingBytes += line.length
      next()
    },
    reopen() {
      const old = fd
      try {
        fd = open(path)
      } catch (error) {
        reason = messageOf(error) // lines go on to the old file
        process.stderr.write(`as-one: the log file ${path} cannot be reopened: ${reason}\n`)
        return
      }
      // A write under way keeps its number until it is done.
      setTimeout(() => closeSync(old), 5_000).unref()
    },
    close() {
      if (closed) return
      closed = true
      try {
        if (waiting.length > 0) writeSync(fd, take())
      } catch {
        // a full disk, and nobody left to tell
      }
    },
  }
}

/** Not `recursive`: where a file system answers ENOENT to mkdir, as /proc does, Node then never returns. */
function makeDirectory(path: string, mayMakeParent = true): void {
  try {
    mkdirSync(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return
    if (code !== 'ENOENT' || !mayMakeParent || dirname(path) === path) throw error
    makeDirectory(dirname(path))
    makeDirectory(path, false)
  }
}

function open(path: string): number {
  return openSync(path, 'a', 0o600)
}

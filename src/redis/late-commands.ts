import type { Redis } from 'ioredis'

interface InFlight {
  readonly command: { readonly isSettled: boolean; reject(error: Error): void }
}

/** ioredis' queues of commands, oldest first. */
interface Queue {
  readonly length: number
  peekAt(index: number): InFlight | undefined
  peekBack(): InFlight | undefined
}

interface Queues {
  readonly commandQueue: Queue
  readonly offlineQueue: Queue
}

const LOOKS_PER_DEADLINE = 10

export interface LateCommandsOptions {
  /** A command without an answer after this time fails. */
  readonly commandMs: number
  /** A connection that says nothing for this time, with commands in flight, is given up. */
  readonly silenceMs: number
}

/**
 * What ioredis' `commandTimeout` and `socketTimeout` do, without a timer for each command and each reply: answers come
 * in the order of the commands, so it is enough to remember every tenth of the deadline which command was the newest.
 * When that one has waited for the whole deadline, so have all before it. A command may get a tenth more than its time.
 * ioredis' timer also puts every command object into dictionary mode.
 */
export function failLateCommands(redis: Redis, { commandMs, silenceMs }: LateCommandsOptions): void {
  const queues = redis as unknown as Queues
  const everyMs = commandMs / LOOKS_PER_DEADLINE
  const silentLooks = Math.ceil(silenceMs / everyMs)
  const sent = new Marks()
  const unsent = new Marks()
  const send = redis.sendCommand
  let watching = false
  let heard = -1
  let silent = 0

  redis.sendCommand = function (this: Redis, ...args: Parameters<typeof send>) {
    if (!watching) {
      watching = true
      heard = -1
      lookLater()
    }
    return send.apply(this, args)
  }

  function lookLater(): void {
    // After a stalled event loop, timers come before the sockets: an answer that lies there already shall count.
    setTimeout(() => setImmediate(look), everyMs).unref()
  }

  function look(): void {
    sent.failLate(queues.commandQueue, commandMs)
    unsent.failLate(queues.offlineQueue, commandMs)
    giveUpSilent()
    watching = queues.commandQueue.length > 0 || queues.offlineQueue.length > 0
    if (watching) {
      lookLater()
      return
    }
    sent.clear()
    unsent.clear()
  }

  function giveUpSilent(): void {
    const { stream } = redis
    const { bytesRead = 0 } = stream ?? {}
    silent = queues.commandQueue.length > 0 && bytesRead === heard ? silent + 1 : 0
    heard = bytesRead
    if (silent < silentLooks) return
    silent = 0
    stream?.destroy(new Error(`nothing came from Redis for ${silenceMs} ms, with commands in flight`))
  }
}

/** The newest command of each of the last looks. */
class Marks {
  readonly #marks: (InFlight | undefined)[] = []

  clear(): void {
    this.#marks.length = 0
  }

  failLate(queue: Queue, commandMs: number): void {
    this.#marks.push(queue.peekBack())
    if (this.#marks.length <= LOOKS_PER_DEADLINE) return
    const newestLate = this.#marks.shift()
    if (!newestLate || newestLate.command.isSettled) return
    for (let i = 0; i < queue.length; i++) {
      const each = queue.peekAt(i) as InFlight
      if (!each.command.isSettled)
        each.command.reject(new Error(`the command timed out after ${commandMs} ms`))
      if (each === newestLate) break
    }
  }
}

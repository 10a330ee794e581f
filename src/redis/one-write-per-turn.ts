import type { Redis } from 'ioredis'

/**
 * Sends all commands of one turn of the event loop in one write, whichever requests they belong to: the stream is
 * corked at the first command and uncorked after the sockets of this turn have been read. Nobody waits longer for it,
 * because replies are read in a later turn anyway. Measured with whole requests, 32 connections to a worker: 17 µs less
 * CPU for a request than with one write per callback (nextTick), and 9 µs less on the server.
 */
export function writeOncePerTurn(redis: Redis): void {
  const send = redis.sendCommand
  let corked = false
  redis.sendCommand = function (this: Redis, ...args: Parameters<typeof send>) {
    const { stream } = this
    if (!corked && stream?.writable) {
      corked = true
      stream.cork()
      // The same stream, not this.stream: a reconnect in between brings a new one that was never corked.
      setImmediate(() => {
        corked = false
        stream.uncork()
      })
    }
    return send.apply(this, args)
  }
}

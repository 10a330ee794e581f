import { isHandedOver } from './redispatch.ts'

type Send = (message: unknown, handle?: unknown, options?: unknown, sent?: unknown) => boolean
type Channel = NodeJS.Process & { _send?: Send }

/**
 * A worker answers each connection that round robin hands to it twice: the channel says that the descriptor has arrived,
 * then round robin that the connection is taken. Here the second message says both, which `redispatchOnDeath` knows in
 * the primary: a write less in the worker and a message less to read in the primary, for each connection. Node whose
 * messages look different answers twice.
 */
export function acknowledgeOnce(channel: Channel): void {
  const { _send: send } = channel
  if (typeof send !== 'function') return
  /** Of the connection that is arriving; then of the one whose first answer waits for the second. */
  let arriving: number | undefined
  let owed: number | undefined

  // Before Node's own listener, which gives the first answer.
  channel.prependListener('internalMessage' as 'message', (message: unknown, handle: unknown) => {
    const { cmd, msg } = message as { cmd?: unknown; msg?: unknown }
    arriving = cmd === 'NODE_HANDLE' && handle && isHandedOver(msg) ? msg.seq : undefined
  })
  channel._send = function (this: Channel, message, handle, options, sent) {
    const { cmd, ack } = (message ?? {}) as { cmd?: unknown; ack?: unknown }
    if (cmd === 'NODE_HANDLE_ACK' && arriving !== undefined && owed === undefined && this.connected) {
      owed = arriving
      arriving = undefined
      queueMicrotask(pay) // runs when all ticks are through, among them the one that gives the second answer
      return true
    }
    if (ack !== undefined && ack === owed) {
      owed = undefined
      ;(message as { arrived?: true }).arrived = true
    }
    return send.call(this, message, handle, options, sent)
  }
  function pay(): void {
    if (owed === undefined) return
    owed = undefined
    if (channel.connected) send?.call(channel, { cmd: 'NODE_HANDLE_ACK' }, null, true)
  }
}

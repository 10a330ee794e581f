import { execFile } from 'node:child_process'
import { messageOf } from '../core/errors.ts'

const DEADLINE_MS = 5_000

/**
 * Tells systemd, if it has started us with Type=notify (sd_notify(3)). Node has no datagram sockets of the unix kind, so
 * `systemd-notify` speaks for us, a child of ours: the unit needs NotifyAccess=all. To be called before anything else is
 * started: whatever we start is none of systemd's business, and must not speak in our name.
 */
export function takeNotifier(
  env: NodeJS.ProcessEnv = process.env,
): (...state: readonly string[]) => Promise<void> {
  const { NOTIFY_SOCKET } = env
  delete env.NOTIFY_SOCKET
  return (...state) => {
    if (!NOTIFY_SOCKET) return Promise.resolve()
    return new Promise((resolve) => {
      const options = { timeout: DEADLINE_MS, env: { ...env, NOTIFY_SOCKET } }
      execFile('systemd-notify', [`--pid=${process.pid}`, ...state], options, (error) => {
        if (error)
          process.stderr.write(`as-one: systemd could not be told ${state.join(' ')}: ${messageOf(error)}\n`)
        resolve()
      })
    })
  }
}

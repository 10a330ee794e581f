import type { Serializable } from 'node:child_process'
import type { Beat } from './beat.ts'

/**
 * What primary and worker say to each other over cluster IPC. The envelope has a key of its own, so that an app's
 * `process.on('message')` can tell these from its own messages.
 */
const ENVELOPE = 'as-one'

export type ToWorker =
  | {
      readonly type: 'drain'
      readonly timeoutMs: number
      readonly delayMs: number
      readonly lingerMs: number
      /** How the app learns, after the drain, that it ends: by its signal handlers, or by PM2's 'shutdown' message. */
      readonly appEnd: 'signal' | 'message'
      /** Idle connections go to the primary, for the others. */
      readonly passOn: boolean
    }
  /** From now on a sign of life this often: the beats are too rare for a short `hangTimeout`. */
  | { readonly type: 'give-signs'; readonly everyMs: number }

export type ToPrimary =
  /** The app listens. */
  | { readonly type: 'ready' }
  /** The app could not be started; the process exits next. */
  | { readonly type: 'failed'; readonly message: string; readonly stack: string | undefined }
  /** Each second. */
  | { readonly type: 'beat'; readonly beat: Beat }
  /** Nothing but that its loop turns. */
  | { readonly type: 'sign' }
  /** Somebody sent this worker a SIGTERM: replace me, then drain me. */
  | { readonly type: 'retire' }
  /** Comes with an idle connection, for another worker. */
  | { readonly type: 'connection' }

export function wrap(message: ToWorker | ToPrimary): Serializable {
  return { [ENVELOPE]: message }
}

/** The message inside, undefined for anything that is not ours. Both ends are this package, on one machine. */
export function unwrap<Message>(received: unknown): Message | undefined {
  if (typeof received !== 'object' || received === null) return undefined
  return (received as Record<string, unknown>)[ENVELOPE] as Message | undefined
}

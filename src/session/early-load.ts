import type { SignedId } from './cookie.ts'
import type { LoadCallback } from './store.ts'

/**
 * What was loaded this long before it is needed is loaded again: a middleware in between (an upload) may have taken its
 * time, and a session that somebody has ended meanwhile must not go on.
 */
const FRESH_MS = 100

type Loaded = Parameters<LoadCallback>

/** A session that is loaded before its middleware is reached. */
export class EarlyLoad {
  readonly signed: SignedId
  /** That the id was read from. */
  readonly #cookies: string | undefined
  readonly #beganAt = performance.now()
  #loaded: Loaded | undefined
  #tell: ((loaded: Loaded) => void) | undefined

  constructor(
    signed: SignedId,
    cookies: string | undefined,
    load: (sid: string, callback: LoadCallback) => void,
  ) {
    this.signed = signed
    this.#cookies = cookies
    load(signed.sid, (...loaded) => {
      this.#loaded = loaded
      this.#tell?.(loaded)
    })
  }

  /** Whether it is what would be loaded now; somebody may have changed the request's cookies on the way. */
  stands(cookies: string | undefined): boolean {
    return cookies === this.#cookies && performance.now() - this.#beganAt < FRESH_MS
  }

  give(callback: LoadCallback): void {
    if (this.#loaded) {
      callback(...this.#loaded)
      return
    }
    // By a promise of its own, so that the request goes on in the async context it has come here with; and outside of
    // it, so that what the application throws is not taken for ours.
    new Promise<Loaded>((resolve) => {
      this.#tell = resolve
    }).then((loaded) => process.nextTick(callback, ...loaded))
  }
}

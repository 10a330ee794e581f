import type { ServerResponse } from 'node:http'
import { withSetCookie } from './cookie.ts'

/** What a response has to wait for. */
export interface Commit {
  /**
   * Called before the header leaves, and once more at the end of a response whose header left earlier.
   * Returns false when there is nothing to wait for; otherwise calls `done`, perhaps at once.
   */
  save(done: (error?: unknown) => void): boolean
  /** The Set-Cookie line, asked for when all is saved. */
  setCookie(): string | undefined
  /** Express' `next(error)`. */
  fail(error: unknown): void
}

type Args = unknown[]
type Method = (this: ServerResponse, ...args: Args) => unknown
type Patched = Record<'write' | 'end' | 'writeHead' | 'flushHeaders', Method>
export type CommitMode = 'before-headers' | 'after'

/**
 * `'before-headers'`: the first call that would send something (`writeHead`, `write`, `end`, `flushHeaders`) commits.
 * While that takes time, calls are kept and then repeated in order; `write` says false and `drain` follows; and the
 * response looks to everyone as if its header had been sent, because it can no longer be changed. When the commit
 * fails nothing has left: the kept calls are dropped and the error's answer takes their place.
 * `headersSent` is no gate: Node sets it in `writeHead`, when nothing is on the wire yet.
 *
 * `'after'`: only `end` is kept, and its header is fixed before the commit.
 */
export function holdResponse(res: ServerResponse, commit: Commit, mode: CommitMode): void {
  const holding = res as unknown as Holding
  holding[HELD] = new HeldResponse(res, commit, mode)
  holding.write = write
  holding.end = end
  holding.writeHead = writeHead
  holding.flushHeaders = flushHeaders
}

const HELD = Symbol('as-one:held-response')
type Holding = { [HELD]?: HeldResponse } & { -readonly [Name in keyof Patched]: Method }

// The same functions for all responses: V8 keeps responses with functions of their own alive for long after their
// end, which costs the garbage collector 6 to 20 µs of each request (measured).
const patches: Patched = {
  write(...args) {
    return heldOf(this).write(args)
  },
  end(...args) {
    return heldOf(this).end(args)
  },
  writeHead(...args) {
    return heldOf(this).writeHead(args)
  },
  flushHeaders(...args) {
    return heldOf(this).flushHeaders(args)
  },
}
const { write, end, writeHead, flushHeaders } = patches

function heldOf(res: ServerResponse): HeldResponse {
  return (res as unknown as Holding)[HELD] as HeldResponse
}

/** The methods as we find them: Node's, those of a wrapper before us, or our own for another session middleware. */
function methodsOf(res: ServerResponse): Patched {
  const { write, end, writeHead, flushHeaders } = res as unknown as Patched
  const earlier = (res as unknown as Holding)[HELD]
  if (!earlier) return { write, end, writeHead, flushHeaders }
  const ours = <Name extends keyof Patched>(method: Method, name: Name): Method =>
    method === patches[name] ? (...args) => earlier[name](args) : method
  return {
    write: ours(write, 'write'),
    end: ours(end, 'end'),
    writeHead: ours(writeHead, 'writeHead'),
    flushHeaders: ours(flushHeaders, 'flushHeaders'),
  }
}

class HeldResponse {
  readonly #res: ServerResponse
  readonly #commit: Commit
  readonly #mode: CommitMode
  readonly #native: Patched
  #phase: 'idle' | 'holding' | 'flowing' | 'failed' = 'idle'
  #kept: { method: Method; args: Args }[] = []
  #refused = false
  #ended = false
  #line: string | undefined
  #unlock: (() => void) | undefined

  constructor(res: ServerResponse, commit: Commit, mode: CommitMode) {
    this.#res = res
    this.#commit = commit
    this.#mode = mode
    this.#native = methodsOf(res)
  }

  write(args: Args): unknown {
    if (this.#phase === 'idle') this.#begin()
    if (this.#phase === 'holding') this.#refused = true
    if (this.#phase === 'failed') return drop(args, false)
    return this.#send(this.#native.write, args, false)
  }

  end(args: Args): unknown {
    if (this.#phase === 'failed') return drop(args, this.#res)
    if (this.#ended) return this.#send(this.#native.end, args, this.#res)
    this.#ended = true
    const first = this.#phase === 'idle'
    if (first) this.#begin()
    else if (this.#unlock) this.#lock()
    const headerLeftEarlier = !first || this.#mode === 'after'
    if (this.#phase === 'flowing' && headerLeftEarlier) return this.#endAfterSave(args)
    return this.#send(this.#native.end, args, this.#res)
  }

  writeHead(args: Args): unknown {
    if (this.#phase === 'idle') this.#begin()
    if (this.#phase === 'failed') return this.#res
    if (this.#phase !== 'holding') return this.#head(args)
    if (this.#kept.length === 0) return this.#send((...kept) => this.#head(kept), args, this.#res)
    // Wrappers that see no header yet (compression) ask for one again before each write.
    if (args.length === 1) return this.#res
    return refuse('write')
  }

  flushHeaders(args: Args): unknown {
    // As Node does it, but before we hold anything: wrappers after us set their headers at this call (compression).
    if (this.#phase === 'idle' && !this.#res.headersSent) this.#res.writeHead(this.#res.statusCode)
    if (this.#phase === 'idle') this.#begin()
    if (this.#phase === 'failed') return undefined
    return this.#send(this.#native.flushHeaders, args, undefined)
  }

  #send(method: Method, args: Args, meanwhile: unknown): unknown {
    if (this.#phase !== 'holding') return method.apply(this.#res, args)
    this.#kept.push({ method, args })
    return meanwhile
  }

  /** Every header is rendered here: Node's `write` and `end` call `res.writeHead` when nobody did. */
  #head(args: Args): unknown {
    const line = this.#line
    this.#line = undefined
    return this.#native.writeHead.apply(
      this.#res,
      line === undefined ? args : [...withSetCookie(this.#res, args, line)],
    )
  }

  /** A method, so that TypeScript does not think the phase stays what it was. */
  #isHolding(): boolean {
    return this.#phase === 'holding'
  }

  #lock(): void {
    this.#unlock?.()
    this.#unlock = lockHeader(this.#res, this.#ended)
  }

  #begin(): void {
    if (this.#mode === 'after') {
      this.#phase = 'flowing'
      try {
        this.#line = this.#commit.setCookie()
      } catch (error) {
        setImmediate(() => this.#commit.fail(error))
      }
      return
    }
    this.#phase = 'holding'
    try {
      if (!this.#commit.save((error) => this.#committed(error))) this.#release()
    } catch (error) {
      this.#committed(error)
    }
    if (this.#isHolding()) this.#lock()
  }

  #committed(error?: unknown): void {
    if (error) setImmediate(() => this.#fail(error))
    else this.#release()
  }

  #release(): void {
    try {
      this.#line = this.#commit.setCookie()
    } catch (error) {
      this.#committed(error)
      return
    }
    this.#unlock?.()
    this.#unlock = undefined
    this.#repeat()
  }

  #repeat(): void {
    this.#phase = 'flowing'
    const calls = this.#kept
    this.#kept = []
    try {
      for (const { method, args } of calls) method.apply(this.#res, args)
    } catch (error) {
      // What Node would have thrown at the application (a bad header, a bad chunk): that has gone on meanwhile.
      if (this.#res.headersSent) this.#res.destroy(error as Error)
      else this.#committed(error)
      return
    }
    if (this.#refused && !this.#ended && !this.#res.writableNeedDrain) this.#res.emit('drain')
    this.#refused = false
  }

  #fail(error: unknown): void {
    const res = this.#res
    this.#unlock?.()
    this.#unlock = undefined
    this.#phase = 'failed'
    this.#line = undefined
    this.#standInFront()
    for (const { args } of this.#kept) drop(args, undefined, error)
    this.#kept = []
    for (const name of res.getHeaderNames()) if (OF_THE_ANSWER.test(name)) res.removeHeader(name)
    res.statusCode = statusOf(error)
    res.statusMessage = ''
    this.#commit.fail(error)
  }

  /**
   * The error's answer goes past the wrappers that were put on after us: compression has ended its answer already and
   * would drop this one. What they still have of the old one comes to our own methods, and is dropped there.
   */
  #standInFront(): void {
    const [res, { write, end, writeHead, flushHeaders }] = [this.#res, this.#native]
    let ended = false
    const answer: Patched = {
      write: (...args) => (ended ? drop(args, false) : write.apply(res, args)),
      end(...args) {
        if (ended) return drop(args, res)
        ended = true
        return end.apply(res, args)
      },
      writeHead: (...args) => writeHead.apply(res, args),
      flushHeaders: (...args) => flushHeaders.apply(res, args),
    }
    Object.assign(res, answer)
  }

  /** The header has left, so errors can only be told; the end still comes. */
  #endAfterSave(args: Args): unknown {
    let over = false
    const done = (error?: unknown): void => {
      over = true
      if (error) setImmediate(() => this.#commit.fail(error))
      if (this.#isHolding()) this.#repeat()
    }
    let waits = false
    try {
      waits = this.#commit.save(done)
    } catch (error) {
      done(error)
    }
    if (!waits || over) return this.#native.end.apply(this.#res, args)
    if (!this.#res.headersSent) this.#res.writeHead(this.#res.statusCode)
    this.#phase = 'holding'
    return this.#send(this.#native.end, args, this.#res)
  }
}

/** What an answer says about itself; headers of earlier middleware (CORS, CSP) stay for the error's answer. */
const OF_THE_ANSWER =
  /^(content-(type|length|encoding|language|range|disposition|location)|transfer-encoding|trailer|etag|last-modified|cache-control|expires|location|accept-ranges|set-cookie)$/

function statusOf(error: unknown): number {
  const status: unknown = (error as { status?: unknown } | null)?.status
  return typeof status === 'number' && status >= 400 && status <= 599 ? status : 500
}

/** A call that comes too late, or whose answer was discarded: its callback hears of it, nothing is sent. */
function drop<T>(
  args: Args,
  result: T,
  error: unknown = new Error('the response was replaced by an error'),
): T {
  const callback = args.at(-1)
  if (typeof callback === 'function') process.nextTick(callback as (error: unknown) => void, error)
  return result
}

/**
 * Makes the response answer as Node's does once its header is rendered; returns the way back. By another prototype,
 * shared by all responses: own properties on a response that Express has adopted cost microseconds each.
 */
function lockHeader(res: ServerResponse, hasEnded: boolean): () => void {
  const { statusCode, statusMessage } = res
  const free = Object.getPrototypeOf(res) as object
  const locked = lockedPrototype(free, hasEnded)
  Object.setPrototypeOf(res, locked)
  return () => {
    // Unless somebody else has put in another one, as Express does on the way out of a mounted app.
    if (Object.getPrototypeOf(res) === locked) Object.setPrototypeOf(res, free)
    res.statusCode = statusCode
    res.statusMessage = statusMessage
  }
}

const lockedPrototypes = { open: new WeakMap<object, object>(), ended: new WeakMap<object, object>() }

function lockedPrototype(free: object, hasEnded: boolean): object {
  const known = hasEnded ? lockedPrototypes.ended : lockedPrototypes.open
  let locked = known.get(free)
  if (!locked) {
    locked = Object.create(
      free,
      hasEnded ? { ...LOCKED, writableEnded: { get: () => true } } : LOCKED,
    ) as object
    known.set(free, locked)
  }
  return locked
}

const LOCKED: PropertyDescriptorMap = {
  headersSent: { get: () => true },
  setHeader: { value: () => refuse('set') },
  appendHeader: { value: () => refuse('append') },
  removeHeader: { value: () => refuse('remove') },
}

function refuse(verb: string): never {
  throw headersSent(verb)
}

function headersSent(verb: string): Error {
  return Object.assign(new Error(`Cannot ${verb} headers after they are sent to the client`), {
    code: 'ERR_HTTP_HEADERS_SENT',
  })
}

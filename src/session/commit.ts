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

/**
 * `'before-headers'`: the first call that would send something (`writeHead`, `write`, `end`, `flushHeaders`) commits.
 * While that takes time, calls are kept and then repeated in order; `write` says false and `drain` follows; and the
 * response looks to everyone as if its header had been sent, because it can no longer be changed. When the commit
 * fails nothing has left: the kept calls are dropped and the error's answer takes their place.
 * `headersSent` is no gate: Node sets it in `writeHead`, when nothing is on the wire yet.
 *
 * `'after'`: only `end` is kept, and its header is fixed before the commit.
 */
export function holdResponse(res: ServerResponse, commit: Commit, mode: 'before-headers' | 'after'): void {
  const patched = res as unknown as Patched
  const { write, end, writeHead, flushHeaders } = patched
  let phase: 'idle' | 'holding' | 'flowing' | 'failed' = 'idle'
  let kept: { method: Method; args: Args }[] = []
  let refused = false
  let ended = false
  let line: string | undefined
  let unlock: (() => void) | undefined

  patched.write = (...args) => {
    if (phase === 'idle') begin()
    if (phase === 'holding') refused = true
    return phase === 'failed' && ended ? drop(args, false) : send(write, args, false)
  }

  patched.end = (...args) => {
    const first = phase === 'idle'
    if (first) begin()
    if (ended) return phase === 'failed' ? drop(args, res) : send(end, args, res)
    ended = true
    const headerLeftEarlier = !first || mode === 'after'
    return phase === 'flowing' && headerLeftEarlier ? endAfterSave(args) : send(end, args, res)
  }

  patched.writeHead = (...args) => {
    if (phase === 'idle') begin()
    // Wrappers that see no header yet (compression) ask for one again before each write.
    if (phase === 'holding' && kept.length > 0 && args.length === 1) return res
    if (phase === 'holding' && kept.length > 0) throw headersSent('write')
    return send(head, args, res)
  }

  patched.flushHeaders = (...args) => {
    if (phase === 'idle') begin()
    return send(flushHeaders, args, undefined)
  }

  function send(method: Method, args: Args, meanwhile: unknown): unknown {
    if (phase !== 'holding') return method.apply(res, args)
    kept.push({ method, args })
    return meanwhile
  }

  /** Node renders every header here: `write` and `end` call `res.writeHead` when nobody did. */
  function head(...args: Args): unknown {
    const cookie = line
    line = undefined
    return writeHead.apply(res, cookie === undefined ? args : [...withSetCookie(res, args, cookie)])
  }

  function begin(): void {
    phase = mode === 'after' ? 'flowing' : 'holding'
    try {
      if (mode === 'after') line = commit.setCookie()
      else if (!commit.save(committed)) release()
    } catch (error) {
      if (mode === 'after') setImmediate(() => commit.fail(error))
      else committed(error)
    }
    if (phase === 'holding')
      unlock = lockHeader(
        res,
        () => phase === 'holding',
        () => ended,
      )
  }

  function committed(error?: unknown): void {
    if (error) setImmediate(fail, error)
    else release()
  }

  function release(): void {
    try {
      line = commit.setCookie()
    } catch (error) {
      setImmediate(fail, error)
      return
    }
    unlock?.()
    phase = 'flowing'
    repeat()
  }

  function repeat(): void {
    const calls = kept
    kept = []
    try {
      for (const { method, args } of calls) method.apply(res, args)
    } catch (error) {
      // What Node would have thrown at the application (a bad header, a bad chunk): that has gone on meanwhile.
      if (res.headersSent) res.destroy(error as Error)
      else setImmediate(fail, error)
      return
    }
    if (refused && !ended && !res.writableNeedDrain) res.emit('drain')
    refused = false
  }

  function fail(error: unknown): void {
    const calls = kept
    kept = []
    unlock?.()
    phase = 'failed'
    ended = false
    line = undefined
    for (const { args } of calls) drop(args, undefined, error)
    for (const name of res.getHeaderNames()) if (OF_THE_ANSWER.test(name)) res.removeHeader(name)
    res.statusCode = statusOf(error)
    res.statusMessage = ''
    commit.fail(error)
  }

  /** The header has left, so errors can only be told; the end still comes. */
  function endAfterSave(args: Args): unknown {
    let over = false
    const done = (error?: unknown): void => {
      over = true
      if (error) setImmediate(() => commit.fail(error))
      if (phase !== 'holding') return
      phase = 'flowing'
      repeat()
    }
    let waits = false
    try {
      waits = commit.save(done)
    } catch (error) {
      done(error)
    }
    if (!waits || over) return end.apply(res, args)
    if (!res.headersSent) res.writeHead(res.statusCode)
    phase = 'holding'
    return send(end, args, res)
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

/** Makes the response answer as Node's does once its header is rendered; returns the way back. */
function lockHeader(res: ServerResponse, isHeld: () => boolean, hasEnded: () => boolean): () => void {
  const { setHeader, appendHeader, removeHeader, statusCode, statusMessage } = res
  const refuse = (verb: string) => (): never => {
    throw headersSent(verb)
  }
  res.setHeader = refuse('set')
  res.appendHeader = refuse('append')
  res.removeHeader = refuse('remove')
  const own = Object.getPrototypeOf(res) as object
  Object.defineProperty(res, 'headersSent', {
    configurable: true,
    get: () => isHeld() || (Reflect.get(own, 'headersSent', res) as boolean),
  })
  Object.defineProperty(res, 'writableEnded', {
    configurable: true,
    get: () => (isHeld() && hasEnded()) || (Reflect.get(own, 'writableEnded', res) as boolean),
  })
  return () => {
    Object.assign(res, { setHeader, appendHeader, removeHeader, statusCode, statusMessage })
  }
}

function headersSent(verb: string): Error {
  return Object.assign(new Error(`Cannot ${verb} headers after they are sent to the client`), {
    code: 'ERR_HTTP_HEADERS_SENT',
  })
}

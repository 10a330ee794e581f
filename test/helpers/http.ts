import http, { Agent, type IncomingHttpHeaders } from 'node:http'
import { track } from './cleanup.ts'

export interface Reply {
  status: number
  headers: IncomingHttpHeaders
  body: string
  /** The body parsed; the caller says what it expects. */
  json<T = unknown>(): T
}

export interface RequestOptions {
  /** @default 'GET', or 'POST' with a body */
  method?: string
  headers?: Record<string, string>
  /** An object is sent as JSON. */
  body?: string | Buffer | object
  /** Sends its cookies and keeps those it is given. */
  jar?: CookieJar
  /** Keep-alive connections: `keepAliveAgent()`. @default a fresh connection, closed after the reply */
  agent?: Agent
  /** Milliseconds for the whole exchange. @default 10_000 */
  timeout?: number
}

/** The cookies of one visitor of one site: paths and domains are not looked at. */
export class CookieJar {
  readonly #cookies = new Map<string, string>()

  get(name: string): string | undefined {
    return this.#cookies.get(name)
  }

  set(name: string, value: string): void {
    this.#cookies.set(name, value)
  }

  clear(): void {
    this.#cookies.clear()
  }

  /** As a Cookie header; undefined if there is nothing to send. */
  header(): string | undefined {
    if (this.#cookies.size === 0) return undefined
    return [...this.#cookies].map(([name, value]) => `${name}=${value}`).join('; ')
  }

  /** Takes a Set-Cookie header; one that has expired takes the cookie away. */
  take(setCookie: string): void {
    const [pair = '', ...attributes] = setCookie.split(';').map((part) => part.trim())
    const name = pair.slice(0, pair.indexOf('='))
    const attribute = (wanted: string) =>
      attributes.find((each) => each.toLowerCase().startsWith(`${wanted}=`))?.slice(wanted.length + 1)
    const maxAge = attribute('max-age')
    const expires = attribute('expires')
    // Max-Age takes precedence over Expires: RFC 6265, section 4.1.2.2.
    const expired = maxAge ? Number(maxAge) <= 0 : expires !== undefined && Date.parse(expires) <= Date.now()
    if (expired) this.#cookies.delete(name)
    else this.#cookies.set(name, pair.slice(name.length + 1))
  }
}

/** Reuses its connections; they are closed when the test (or else the file) ends. */
export function keepAliveAgent(maxSockets = Number.POSITIVE_INFINITY): Agent {
  const agent = new Agent({ keepAlive: true, maxSockets })
  track({ [Symbol.asyncDispose]: async () => agent.destroy() })
  return agent
}

/** One request. Rejects when no complete reply came; a status is a reply, whatever it says. */
export function request(url: string | URL, options: RequestOptions = {}): Promise<Reply> {
  const { body, jar, agent = false, timeout = 10_000 } = options
  const isJson = typeof body === 'object' && !Buffer.isBuffer(body)
  const payload = isJson ? JSON.stringify(body) : body
  const cookie = jar?.header()
  const deadline = AbortSignal.timeout(timeout)
  return new Promise((resolve, reject) => {
    const fail = (error: Error) =>
      reject(deadline.aborted ? new Error(`no complete reply from ${url} in ${timeout} ms`) : error)
    const outgoing = http.request(url, {
      method: options.method ?? (body === undefined ? 'GET' : 'POST'),
      agent,
      signal: deadline,
      headers: {
        ...(cookie && { cookie }),
        ...(isJson && { 'content-type': 'application/json' }),
        ...(payload !== undefined && { 'content-length': Buffer.byteLength(payload) }),
        ...options.headers,
      },
    })
    outgoing.once('error', fail)
    outgoing.once('response', (incoming) => {
      const chunks: Buffer[] = []
      incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
      incoming.once('error', fail) // cut off in the middle
      incoming.once('end', () => {
        for (const setCookie of incoming.headers['set-cookie'] ?? []) jar?.take(setCookie)
        const text = Buffer.concat(chunks).toString()
        const { statusCode = 0, headers } = incoming
        resolve({ status: statusCode, headers, body: text, json: <T>() => JSON.parse(text) as T })
      })
    })
    outgoing.end(payload)
  })
}

export function get(
  url: string | URL,
  options: Omit<RequestOptions, 'method' | 'body'> = {},
): Promise<Reply> {
  return request(url, options)
}

export interface SteadyLoadOptions {
  url: string
  /** Each sends its next request when the last one is answered. @default 4 */
  clients?: number
  /** One connection per client instead of one per request. @default false */
  keepAlive?: boolean
  /** Milliseconds per request. @default 10_000 */
  timeout?: number
  /** What a client sends instead of a GET of the URL. */
  send?: (client: { index: number; agent: Agent | undefined; sent: number }) => Promise<Reply>
  /** @default a status below 400 */
  isOk?: (reply: Reply) => boolean
}

export interface LoadResult {
  ok: number
  failed: number
  /** Failures by error code or `status 503`. */
  reasons: Record<string, number>
}

export interface SteadyLoad extends AsyncDisposable {
  /** The count so far, live. */
  readonly result: Readonly<LoadResult>
  /** Resolves when the last reply has come, or failed to. */
  stop(): Promise<LoadResult>
}

/** Closed-loop load that goes on until stopped; what was under way is still counted. */
export function steadyLoad(options: SteadyLoadOptions): SteadyLoad {
  const { url, clients = 4, keepAlive = false, timeout = 10_000 } = options
  const isOk = options.isOk ?? ((reply) => reply.status < 400)
  const result: LoadResult = { ok: 0, failed: 0, reasons: {} }
  let stopping = false

  function failed(reason: string): void {
    result.failed++
    result.reasons[reason] = (result.reasons[reason] ?? 0) + 1
  }

  async function visit(index: number): Promise<void> {
    const agent = keepAlive ? new Agent({ keepAlive: true, maxSockets: 1 }) : undefined
    const get = () => request(url, { timeout, ...(agent && { agent }) })
    for (let sent = 0; !stopping; sent++) {
      try {
        const reply = await (options.send?.({ index, agent, sent }) ?? get())
        if (isOk(reply)) result.ok++
        else failed(`status ${reply.status}`)
      } catch (error) {
        failed((error as NodeJS.ErrnoException).code ?? String(error))
        // A server that is down refuses thousands of times a second: that would count our speed, not its faults.
        await new Promise((resolve) => setTimeout(resolve, 10))
      }
    }
    agent?.destroy()
  }

  const visits = Promise.all(Array.from({ length: clients }, (_, index) => visit(index)))
  const load: SteadyLoad = {
    result,
    async stop() {
      stopping = true
      await visits
      return result
    },
    async [Symbol.asyncDispose]() {
      await load.stop()
    },
  }
  return track(load)
}

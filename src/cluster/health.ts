import { createHash, timingSafeEqual } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type AddressInfo, isIP } from 'node:net'
import { messageOf, SharedStateError } from '../core/errors.ts'

export interface HealthOptions {
  readonly port: number
  readonly host: string
  /** Without one there are no actions, and on other hosts no status. */
  readonly token: string | undefined
}

/** What the health port shows and does. */
export interface HealthSource {
  /** Whether a load balancer should send requests here. */
  isReady(): boolean
  status(): unknown
  /** By path; `query` is what stands behind the question mark. */
  readonly actions: Readonly<Record<string, (query: URLSearchParams) => unknown>>
}

export interface HealthPort {
  readonly port: number
  close(): Promise<void>
}

interface Answer {
  readonly status: number
  readonly body: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/**
 * Opens the port for load balancers, orchestrators and operators: `GET /livez`, `/readyz`, `/status`, and actions by POST.
 *
 * @throws SharedStateError `ERR_AS_ONE_PORT` when it cannot be listened on
 */
export async function openHealthPort(options: HealthOptions, source: HealthSource): Promise<HealthPort> {
  const { host, token } = options
  const server = createServer((req, res) => {
    answer(req).then(
      (given) => reply(res, given),
      (error: unknown) => reply(res, { status: 500, body: { error: messageOf(error) } }),
    )
  })
  server.requestTimeout = 5_000
  server.maxHeadersCount = 50

  async function answer(req: IncomingMessage): Promise<Answer> {
    // A page in a browser can be made to reach loopback under a name of its own, but not under an address.
    if (!isOwnHost(req.headers.host, host))
      return refused(403, 'Host must be an IP address, localhost or health.host')
    const url = new URL(req.url ?? '/', 'http://localhost')
    if (req.method === 'POST') return act(req, url)
    if (req.method !== 'GET' && req.method !== 'HEAD') return refused(405, 'GET, HEAD or POST')
    if (url.pathname === '/livez') return { status: 200, body: { live: true } }
    if (url.pathname === '/readyz') {
      const ready = source.isReady()
      return { status: ready ? 200 : 503, body: { ready } }
    }
    if (url.pathname !== '/status') return notFound()
    if (!isLoopback(host) && !isAuthorised(req)) return unauthorised()
    return { status: 200, body: source.status() }
  }

  async function act(req: IncomingMessage, url: URL): Promise<Answer> {
    const name = url.pathname.slice(1)
    const action = Object.hasOwn(source.actions, name) ? source.actions[name] : undefined
    if (!action) return notFound()
    if (token === undefined) return refused(403, 'actions need the option health.token')
    if (!isAuthorised(req)) return unauthorised()
    try {
      await action(url.searchParams)
      return { status: 200, body: { done: name } }
    } catch (error) {
      if (!(error instanceof SharedStateError)) throw error
      return { status: 409, body: { error: error.message, code: error.code } }
    }
  }

  function isAuthorised({ headers }: IncomingMessage): boolean {
    const given = /^Bearer +(.+)$/i.exec(headers.authorization ?? '')?.[1]
    return token !== undefined && given !== undefined && timingSafeEqual(digest(given), digest(token))
  }

  await new Promise<void>((resolve, reject) => {
    const onError = (error: Error): void =>
      reject(
        new SharedStateError(
          'ERR_AS_ONE_PORT',
          `health.port ${options.port} on ${host} cannot be listened on: ${error.message}; set health.port to another one`,
          { cause: error },
        ),
      )
    server.once('error', onError)
    server.listen(options.port, host, () => {
      server.off('error', onError)
      server.on('error', () => {}) // no descriptor left for a connection: the next may have one
      resolve()
    })
  })
  return {
    port: (server.address() as AddressInfo).port,
    close() {
      server.closeAllConnections()
      return new Promise((resolve) => server.close(() => resolve()))
    },
  }
}

function reply(res: ServerResponse, { status, body, headers = {} }: Answer): void {
  res.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store', ...headers })
  res.end(`${JSON.stringify(body)}\n`)
}

const refused = (status: number, error: string): Answer => ({ status, body: { error } })
const notFound = (): Answer => refused(404, 'there are /livez, /readyz, /status and the actions')
const unauthorised = (): Answer => ({
  ...refused(401, 'Authorization: Bearer <health.token> is missing or wrong'),
  headers: { 'www-authenticate': 'Bearer' },
})

/** Of equal length, as the comparison wants it. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\./.test(host)
}

function isOwnHost(header: string | undefined, own: string): boolean {
  if (header === undefined) return false
  const name = header.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
  return name === 'localhost' || name === own || isIP(name) !== 0
}

import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { Server } from 'node:net'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'

/** `(req, res)` or `(req, res, next)`, as Connect and plain handlers are; what is written in place gets its types from here. */
type Listener = (req: IncomingMessage, res: ServerResponse, next: (error?: unknown) => void) => unknown

/** An app, a module whose default export is one, or a function without parameters that returns (a promise of) either. */
export type App = Listener | object // so that the listeners of frameworks, with requests of their own, are apps too

/** An app that can be put on a port. */
export interface LoadedApp {
  readonly server: Server
  /** What the framework wants to do after the last request. */
  readonly close: (() => Promise<unknown>) | undefined
}

const WANTED =
  'a request listener (req, res) or (req, res, next), a net.Server, a Nest, Fastify, Koa or Hono app, ' +
  'or a function without parameters that returns one of these or a module that exports one as default'

/**
 * Refuses, in the primary and before anything has started, what no worker could run.
 *
 * @throws SharedStateError `ERR_AS_ONE_APP`
 */
export function checkApp(app: unknown): asserts app is App {
  if (typeof app === 'function') {
    if (app.length <= 3 && app.length !== 1) return
    throw appError(
      app.length === 1
        ? 'a function with one parameter is neither a request listener (req, res) nor a factory (): add the second parameter, or remove the first'
        : `a function with ${app.length} parameters is no request listener`,
    )
  }
  if (typeof app === 'object' && app !== null && (isKnownObject(app) || 'default' in app)) return
  throw appError(`got ${show(app)}`)
}

/**
 * Refuses, in the primary, a server on which listen() has been called: the primary would hold the workers' port.
 *
 * @throws SharedStateError `ERR_AS_ONE_APP`
 */
export function checkNotListening(app: App): void {
  if (!(app instanceof Server) || !app.listening) return
  throw new SharedStateError(
    'ERR_AS_ONE_APP',
    'runCluster(app): the server listens already, here in the primary; leave listen() to runCluster, which takes port, host or socketPath',
  )
}

/**
 * Runs factories and recognises what they return.
 *
 * @throws SharedStateError `ERR_AS_ONE_APP`; what a factory throws is passed on as it is
 */
export async function loadApp(app: unknown): Promise<LoadedApp> {
  checkApp(app)
  if (typeof app !== 'function' || app.length > 0)
    return (await recognise(unpacked(app))) ?? unrecognised(app)
  const made: unknown = unpacked(await (app as () => unknown)())
  const loaded = await recognise(made)
  if (loaded) return loaded
  const name = app.name ? ` ${app.name}` : ''
  throw appError(
    `the function${name} has no parameters, so it was called as a factory, and it returned ${showMade(made)}; return the app, or give a request listener its parameters (req, res)`,
  )
}

/**
 * A module stands for its default export, which CommonJS modules imported from ESM may have twice. A module that happens
 * to export `fetch`, or `ready` and `server`, beside it is no Hono or Fastify app.
 */
function unpacked(value: unknown): unknown {
  let inner = value
  for (let depth = 0; depth < 2; depth++) {
    if (typeof inner !== 'object' || inner === null || !('default' in inner)) break
    if (!isModule(inner) && isKnownObject(inner)) break
    inner = inner.default
  }
  return inner
}

const isModule = (value: object): boolean => Object.prototype.toString.call(value) === '[object Module]'

function showMade(made: unknown): string {
  const isBare = typeof made === 'object' && made !== null && isModule(made)
  return isBare ? 'a module without a default export' : show(made)
}

type Methods = Partial<Record<string, unknown>>

const has = (app: object, ...names: string[]): boolean =>
  names.every((name) => typeof (app as Methods)[name] === 'function')
const isServer = (app: object): app is Server => app instanceof Server
const isNest = (app: object): boolean => has(app, 'getHttpServer', 'init')
const isFastify = (app: object): boolean => has(app, 'ready') && 'server' in app
const isKoa = (app: object): boolean => has(app, 'callback') && Array.isArray((app as Methods).middleware)
const isHono = (app: object): boolean => has(app, 'fetch')

function isKnownObject(app: object): boolean {
  return isServer(app) || isNest(app) || isFastify(app) || isKoa(app) || isHono(app)
}

/** The order matters: a Nest app is a proxy that seems to have Koa's methods too. */
async function recognise(app: unknown): Promise<LoadedApp | undefined> {
  if (typeof app === 'function') {
    return app.length === 2 || app.length === 3
      ? { server: createServer(app as RequestListener), close: undefined }
      : undefined
  }
  if (typeof app !== 'object' || app === null) return undefined
  if (isServer(app)) return { server: app, close: undefined }
  if (isNest(app)) {
    const nest = app as { init(): Promise<unknown>; getHttpServer(): Server; close(): Promise<unknown> }
    await nest.init()
    return { server: nest.getHttpServer(), close: () => nest.close() }
  }
  if (isFastify(app)) {
    const fastify = app as { ready(): Promise<unknown>; server: Server; close(): Promise<unknown> }
    await fastify.ready()
    return { server: fastify.server, close: () => fastify.close() }
  }
  if (isKoa(app))
    return { server: createServer((app as { callback(): RequestListener }).callback()), close: undefined }
  if (isHono(app))
    return { server: await honoServer(app as { fetch(request: Request): unknown }), close: undefined }
  return undefined
}

async function honoServer(app: { fetch(request: Request): unknown }): Promise<Server> {
  let adapter: { createAdaptorServer(options: { fetch: unknown }): Server }
  try {
    // Resolved from here, a peer of the app: not a dependency, and a name tsc must not look up.
    const name = '@hono/node-server'
    adapter = (await import(name)) as typeof adapter
  } catch (error) {
    throw new SharedStateError(
      'ERR_AS_ONE_APP',
      'an app with fetch() (Hono) needs @hono/node-server: npm install @hono/node-server',
      {
        cause: error,
      },
    )
  }
  return adapter.createAdaptorServer({ fetch: app.fetch.bind(app) })
}

function unrecognised(app: unknown): never {
  throw appError(`got ${show(app)}`)
}

function appError(what: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_APP', `runCluster(app): ${what}. An app is ${WANTED}`)
}

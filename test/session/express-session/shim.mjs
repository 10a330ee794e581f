// Loaded by mocha before express-session's test/session.js, whose `require('../')` then gets our middleware and store.
// Nothing here knows a test: it says what express-session does when an option is not given, and no more.

import Module from 'node:module'
import { join } from 'node:path'
import expressSession from 'express-session'
import { createContext } from '../../../build/context.js'
import { createKeys } from '../../../build/core/keys.js'
import { createStore } from '../../../build/session/index.js'
import { sessionMiddleware } from '../../../build/session/middleware.js'
import { resolveSessionOptions } from '../../../build/session/options.js'

const { CHECKOUT, COMMIT, REDIS_URL } = process.env
const ctx = createContext({ redis: REDIS_URL, namespace: `express-session-${process.pid}` })

/** express-session's defaults, where ours are others; the last one says when its response leaves. */
const DEFAULTS = { name: 'connect.sid', resave: true, saveUninitialized: true, commit: 'after' }

let stores = 0

/** Stands for the store every test makes for itself: sessions on Redis, apart from all others, touched at each request. */
function MemoryStore() {
  const keys = createKeys(`${ctx.keys.namespace}-${++stores}`)
  return createStore({ ...ctx, keys }, { touchEvery: 0 })
}

function session({ store = new MemoryStore(), key, secret = (req) => req.secret, ...options } = {}) {
  const named = key === undefined ? {} : { name: key }
  const given = { ...DEFAULTS, ...(COMMIT && { commit: COMMIT }), ...named, ...options, secret }
  return sessionMiddleware(store, resolveSessionOptions(given))
}

const { Session, Store, Cookie } = expressSession
Object.assign(session, { Session, Store, Cookie, MemoryStore })

const load = Module._load
Module._load = function (request, parent, ...rest) {
  const isTheirs = request === '../' && parent?.filename === join(CHECKOUT, 'test/session.js')
  return isTheirs ? session : load.call(this, request, parent, ...rest)
}

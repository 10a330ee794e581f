import type { Store } from 'express-session'
import { defaultContext } from '../context.ts'
import type { SessionOptions, SessionStoreOptions } from './options.ts'
import { createSession, type SessionMiddleware } from './session.ts'
import { createStore } from './stores.ts'

/**
 * Sessions on the default instance: one session, whichever worker of whichever machine answers. Use it where
 * `express-session` stood.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake
 * @example app.use(sharedSession({ secret: process.env.SESSION_SECRET }))
 */
export function sharedSession<Data extends object = object>(
  options: SessionOptions,
): SessionMiddleware<Data> {
  return createSession<Data>(defaultContext(), options)
}

/**
 * The store alone, on the default instance, for who keeps express-session: no lost fields, destroyed stays destroyed,
 * an answer in time; but the response leaves before its session is saved, as ever there.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake
 * @example app.use(session({ secret, resave: false, saveUninitialized: false, store: sharedSessionStore({ ttl: '7d' }) }))
 */
export function sharedSessionStore(options?: SessionStoreOptions): Store {
  return createStore(defaultContext(), options)
}

import { defaultContext } from '../context.ts'
import type { SessionOptions } from './options.ts'
import { createSession, type SessionMiddleware } from './session.ts'

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

export type { SessionCookieOptions, SessionOptions, SessionSecret } from './options.ts'
export { createSession, type SessionMiddleware, type SharedSession } from './session.ts'
export { sharedSession } from './shared-session.ts'

export type { MergeOption, MergeRule, Versions } from './merge.ts'
export type {
  SessionCookieOptions,
  SessionOptions,
  SessionSecret,
  SessionStoreOptions,
} from './options.ts'
export type { Revoked } from './revocations.ts'
export type { EncryptionKey } from './seal.ts'
export { createSession, type RotateOptions, type SessionMiddleware } from './session.ts'
export type { SharedSession, SharedSessionMethods } from './session-object.ts'
export { sharedSession, sharedSessionStore } from './shared-session.ts'
export { createStore } from './stores.ts'
export type { UpgradeSession } from './upgrade.ts'
export type { SparedSession, UserSession, UserSessions } from './user-sessions.ts'

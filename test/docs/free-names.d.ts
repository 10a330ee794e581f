// What the snippets of the READMEs speak of without declaring it: the reader's own code, and what an earlier snippet of
// the same README has imported or made.
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Express } from 'express'
import type { FastifyInstance } from 'fastify'

interface KoaContext {
  req: IncomingMessage
  res: ServerResponse
  ip: string
  respond?: boolean
  onerror(error: Error): void
}

declare global {
  const app: Express
  const server: Server
  const fastify: FastifyInstance
  const koa: { use(middleware: (ctx: KoaContext, next: () => Promise<void>) => Promise<void>): void }
  const wss: {
    handleUpgrade(
      req: IncomingMessage,
      socket: Duplex,
      head: Buffer,
      done: (ws: { close(code: number): void }) => void,
    ): void
  }
  const db: {
    product(id: string): Promise<{ id: string; price: number }>
    save(id: string, body: unknown): Promise<void>
  }
  const recommendations: { forget(id: unknown): void; forgetAll(): void }
  const id: string
  const req: IncomingMessage
  const secret: string
  const user: { id: string }
  const recipients: string[]
  interface AuditEntry {
    who: string
  }

  const createBus: typeof import('as-one').createBus
  const ipKey: typeof import('as-one').ipKey
  const rateLimit: typeof import('as-one').rateLimit
  const sharedSession: typeof import('as-one').sharedSession
  const sessions: import('as-one').SessionMiddleware
}

declare module 'express-session' {
  interface SessionData {
    views: number
  }
}

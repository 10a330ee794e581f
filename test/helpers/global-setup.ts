import type { TestProject } from 'vitest/node'
import { type ChosenRedis, chooseRedis, type OpenRedis } from './choose-redis.ts'

declare module 'vitest' {
  interface ProvidedContext {
    redis: ChosenRedis
  }
}

interface SharedRedis {
  opening: Promise<OpenRedis>
  users: number
}

/** Each project loads this module anew, in one process: here they find the one Redis of the run. */
const holder = globalThis as typeof globalThis & { asOneTestRedis?: SharedRedis | undefined }

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  holder.asOneTestRedis ??= { opening: open(), users: 0 }
  const shared = holder.asOneTestRedis
  shared.users++
  const { url, kind, version, close } = await shared.opening
  project.provide('redis', { url, kind, version })
  return async () => {
    if (--shared.users > 0) return
    holder.asOneTestRedis = undefined
    await close()
  }
}

async function open(): Promise<OpenRedis> {
  const chosen = await chooseRedis()
  console.info(`[redis] ${chosen.kind} ${chosen.version} (${chosen.ms} ms)`)
  return chosen
}

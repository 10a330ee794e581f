import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { launchers, serverFile } from './launchers.mjs'
import { get } from './load.mjs'
import { freePort } from './ports.mjs'
import { isAlive, rssOf, start, until, workersOf } from './processes.mjs'
import { startRedis } from './redis.mjs'

const WORKERS = 2
const KEPT = 16
const FRESH = 8

/** Starts a launcher with an app; `ready` when every worker answers. */
async function startServer(launcher, app, env = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'bench-'))
  const redis = launcher.startsWith('as-one') && !env.AS_ONE_LOCAL ? await startRedis() : undefined
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const { args, env: own, ready } = launchers[launcher]({ workers: WORKERS, dir })
  const startedAt = performance.now()
  const server = start(process.execPath, args, {
    cwd: dir,
    env: {
      PORT: String(port),
      WORKERS: String(WORKERS),
      BENCH_APP: serverFile(app),
      XDG_STATE_HOME: dir,
      ...own,
      ...(redis ? { REDIS_URL: redis.tcp } : {}),
      ...env,
    },
  })
  const close = async () => {
    await server.stop()
    await redis?.stop()
    rmSync(dir, { recursive: true, force: true })
  }
  try {
    await server.waitFor(ready)
    const answers = () => get(url).then(Boolean, () => false)
    await until(async () => server.gone !== undefined || (await answers()), `${launcher} to answer`)
    return { server, url, dir, close, readyMs: performance.now() - startedAt }
  } catch (error) {
    await close()
    throw error
  }
}

/** What a start takes, and what it holds when nothing happens: each sample is a new start. */
export function startupSubject({ launcher, app = 'http/hello.mjs', env }) {
  return async ({ smoke }) => ({
    async sample() {
      const { server, close, readyMs } = await startServer(launcher, app, env)
      try {
        if (!smoke) await new Promise((resolve) => setTimeout(resolve, 1_000))
        const workers = workersOf(server.pid)
        const primaryMb = rssOf(server.pid)
        const workersMb = workers.reduce((sum, pid) => sum + rssOf(pid), 0) / WORKERS
        return { rate: 1_000 / readyMs, readyMs, primaryMb, workersMb }
      } finally {
        await close()
      }
    },
    async close() {},
  })
}

/** All workers replaced under load: each sample is one reload. */
export function reloadSubject({ launcher, reload }) {
  return async ({ smoke }) => {
    const { server, url, dir, close } = await startServer(launcher, 'http/who.mjs')
    return {
      close,
      async sample() {
        const load = startLoad(url, smoke ? 2 : KEPT, smoke ? 2 : FRESH)
        try {
          await until(() => load.done() > 20, 'the first answers')
          const before = await pidsOf(url)
          const startedAt = performance.now()
          await reload({ server, dir })
          await until(() => before.every((pid) => !isAlive(pid)), 'the old workers to be gone', 60_000)
          const reloadMs = performance.now() - startedAt
          await until(async () => (await pidsOf(url)).length === WORKERS, 'all new workers to answer')
          const { done, failed, ms } = await load.stop()
          return { rate: done / (ms / 1e3), failed, reloadMs }
        } finally {
          await load.stop()
        }
      },
    }
  }
}

async function pidsOf(url) {
  const replies = await Promise.all(Array.from({ length: 8 }, () => get(url)))
  return [...new Set(replies.map(({ body }) => JSON.parse(body).pid))]
}

/** Every client sends its next request when the last one is answered; a request without a complete 200 has failed. */
function startLoad(url, kept, fresh) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: kept })
  const startedAt = performance.now()
  let running = true
  let done = 0
  let failed = 0
  const client = async (options) => {
    while (running) {
      const ok = await get(url, options).then(
        ({ status }) => status === 200,
        () => false,
      )
      if (ok) done += 1
      else failed += 1
      if (!ok) await new Promise((resolve) => setTimeout(resolve, 10)) // a refused connection is refused at once
    }
  }
  const clients = [...Array(kept).fill({ agent }), ...Array(fresh).fill({})].map(client)
  return {
    done: () => done,
    async stop() {
      running = false
      await Promise.all(clients)
      agent.destroy()
      return { done, failed, ms: performance.now() - startedAt }
    },
  }
}

export const reloads = {
  'as-one': async ({ server }) => void process.kill(server.pid, 'SIGHUP'),
  'node:cluster': async ({ server }) => void process.kill(server.pid, 'SIGHUP'),
  pm2: ({ dir }) =>
    new Promise((resolve, reject) => {
      const env = { ...process.env, PM2_HOME: dir }
      const pm2 = spawn(
        process.execPath,
        [launchers.pm2({ workers: 0, dir }).args[0].replace('-runtime', ''), 'reload', 'all'],
        {
          env,
          stdio: 'ignore',
        },
      )
      pm2.once('error', reject)
      pm2.once('exit', resolve)
    }),
}

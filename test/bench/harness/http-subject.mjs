import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { launchers, serverFile } from './launchers.mjs'
import { fewRequests, get, load } from './load.mjs'
import { freePort } from './ports.mjs'
import { cpuOf, rssOf, start, until, workersOf } from './processes.mjs'
import { startRedis } from './redis.mjs'

const CONNECTIONS = 64
const COUNTED = 2_000

/**
 * A contender that answers HTTP: a launcher (as-one, node:cluster, …) with an app.
 * `redis` is 'tcp', 'unix' or false; `workload(url)` prepares and returns the requests; `check(url, get)` throws when
 * the contender does not do its work.
 */
export function httpSubject({
  launcher,
  app,
  redis: transport = 'tcp',
  workload,
  check,
  env = {},
  workers = 2,
  node,
}) {
  return async (context) => {
    const redis = transport ? await startRedis() : undefined
    const dir = mkdtempSync(join(tmpdir(), 'bench-'))
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const profile = context.profileDir && {
      NODE_OPTIONS: `--import=${serverFile('profile-agent.mjs')}`,
      BENCH_PROFILE_DIR: context.profileDir,
    }
    if (context.profileDir) mkdirSync(context.profileDir, { recursive: true })
    const startedAt = performance.now()
    const { args, cwd, env: launcherEnv, ready } = launchers[launcher]({ workers, dir })
    const server = start(node ?? process.execPath, args, {
      cwd,
      env: {
        PORT: String(port),
        WORKERS: String(workers),
        BENCH_APP: serverFile(app),
        XDG_STATE_HOME: dir,
        ...launcherEnv,
        ...(redis && { REDIS_URL: redis[transport] }),
        ...profile,
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
      // Some say 'online' before they listen.
      const answers = () => get(url).then(Boolean, () => false)
      await until(async () => server.gone !== undefined || (await answers()), `${launcher} to answer`)
      if (server.gone !== undefined)
        throw new Error(`${launcher} ended with ${server.gone}: ${server.output()}`)
      const readyMs = performance.now() - startedAt
      await check?.(url, get)
      const requests = workload ? await workload(url, get) : [{ path: '/' }]
      return { ...measured({ url, requests, server, redis, context, workers }), readyMs, close }
    } catch (error) {
      await close()
      throw error
    }
  }
}

function measured({ url, requests, server, redis, context, workers }) {
  const roles = () => {
    const all = workersOf(server.pid)
    return { primary: server.pid, workers: all }
  }
  const read = async () => {
    const { primary, workers: others } = roles()
    const total = others.reduce((sum, pid) => sum + cpuOf(pid), 0)
    return { primaryUs: cpuOf(primary), workersUs: total, redis: await redis?.counters() }
  }
  const send = (ms) =>
    context.smoke ? fewRequests(url, requests, 40) : load(url, requests, { ms, connections: CONNECTIONS })

  const idlePrimaryMb = rssOf(server.pid)
  return {
    pids: roles,
    coresWanted: workers,
    async sample(ms) {
      const before = await read()
      const done = await send(ms)
      const after = await read()
      const n = done.requests
      if (n === 0 || done.refused + done.broken > 0)
        throw new Error(`${done.refused} refused and ${done.broken} broken of ${n} requests to ${url}`)
      const appUs = (after.workersUs + after.primaryUs - before.workersUs - before.primaryUs) / n
      return {
        rate: n / (done.us / 1e6),
        appUs,
        primaryUs: (after.primaryUs - before.primaryUs) / n,
        ...(redis && {
          redisUs: (after.redis.cpuUs - before.redis.cpuUs) / n,
          bytes:
            (after.redis.bytesIn - before.redis.bytesIn + after.redis.bytesOut - before.redis.bytesOut) / n,
        }),
        p50Ms: done.p50Us / 1e3,
        p99Ms: done.p99Us / 1e3,
      }
    },
    /** What is not taken from the rounds: commands by name in a pass of their own, memory. */
    async facts() {
      const { primary, workers: others } = roles()
      const memory = {
        idlePrimaryMb,
        primaryMb: rssOf(primary),
        workersMb: others.reduce((sum, pid) => sum + rssOf(pid), 0) / workers,
      }
      if (!redis) return memory
      // A known number of requests, all answered: what a load generator leaves in flight would count as more.
      const [count, quietMs] = context.smoke ? [40, 1] : [COUNTED]
      return {
        ...memory,
        ...(await redis.commandsPer(count, () => fewRequests(url, requests, count), quietMs)),
      }
    },
    /** Runs `work` while every worker writes a CPU profile. */
    async profile(work) {
      const { workers: others } = roles()
      for (const pid of others) process.kill(pid, 'SIGUSR2')
      await until(
        async () => (server.output().match(/profile: on/g) ?? []).length >= workers,
        'profiles to begin',
      )
      const outcome = await work()
      for (const pid of others) process.kill(pid, 'SIGUSR2')
      await until(
        async () => (server.output().match(/profile: written/g) ?? []).length >= workers,
        'profiles',
      )
      return outcome
    },
  }
}

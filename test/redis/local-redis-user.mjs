// One user of the managed Redis: does what it is told over IPC, tells what happens.
import { spawn } from 'node:child_process'
import { startLocalRedis } from '../../build/redis/local-redis.js'

const options = { name: 'app', cwd: '/srv/app', ...JSON.parse(process.argv[2] ?? '{}') }
let redis

const commands = {
  async start() {
    redis = await startLocalRedis(options)
    redis.on('restarted', (how) => process.send({ restarted: how }))
    redis.on('down', (error) => process.send({ down: error.message }))
    return { started: redis.pid(), dir: redis.dir }
  },
  async stop() {
    await redis.stop()
    return { stopped: true }
  },
  // What keeps an inherited pipe open: it outlives its parent.
  async leaveChild() {
    const child = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 60_000)'], {
      detached: true,
      stdio: 'ignore',
    })
    child.unref()
    return { child: child.pid }
  },
  async ping() {
    return { pid: redis.pid() }
  },
}

process.on('SIGINT', () => process.send({ interrupted: true }))
process.on('unhandledRejection', (error) => process.send({ unhandled: String(error) }))
process.on('message', (command) => {
  commands[command]().then(
    (answer) => process.send({ to: command, ...answer }),
    (error) => process.send({ to: command, failed: error.message, code: error.code }),
  )
})
process.send({ loaded: true })

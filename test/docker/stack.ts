import { type ExecFileOptions, execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { track } from '../helpers/cleanup.ts'
import { freePort } from '../helpers/ports.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The demo of docker-compose.yml, under a project name and a port of its own. */
export interface Stack {
  /** Of nginx, the only way in. */
  readonly url: string
  /** `docker compose …` for this project; resolves with what it printed, rejects with its last lines. */
  compose(...args: string[]): Promise<string>
}

/** Builds and starts everything, and waits until it is healthy. Gone at the end of the file, volumes and images included. */
export async function startStack(): Promise<Stack> {
  const port = await freePort()
  const project = `as-one-test-${randomBytes(4).toString('hex')}`
  const env = { ...process.env, AS_ONE_DEMO_PORT: `${port}`, COMPOSE_PROJECT_NAME: project }
  takeDownWhenWeEnd(env)
  const compose: Stack['compose'] = (...args) => docker(['compose', ...args], { cwd: root, env })
  await compose('up', '--detach', '--build', '--wait')
  return { url: `http://127.0.0.1:${port}`, compose }
}

/**
 * A process that does nothing but wait for the end of its input, and then takes the project down. So it is taken down
 * however this process ends.
 */
function takeDownWhenWeEnd(env: NodeJS.ProcessEnv): void {
  const script = 'read -r never; exec docker compose down --volumes --rmi local --remove-orphans --timeout 2'
  const undertaker = spawn('/bin/sh', ['-c', script], {
    cwd: root,
    env,
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true, // a Ctrl-C to the test run is not for it
  })
  track({
    async [Symbol.asyncDispose]() {
      undertaker.stdin.end()
      await once(undertaker, 'exit')
    },
  })
}

function docker(args: string[], options: ExecFileOptions): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(
      'docker',
      args,
      { ...options, timeout: 300_000, maxBuffer: 64 << 20 },
      (error, stdout, stderr) => {
        if (!error) return resolve(`${stdout}`)
        const last = `${stderr}`.trim().split('\n').slice(-8).join('\n')
        reject(new Error(`docker ${args.join(' ')}: ${last || error.message}`))
      },
    )
  })
}

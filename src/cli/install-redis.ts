import { spawn } from 'node:child_process'
import { SharedStateError } from '../core/errors.ts'
import { findInPath } from '../redis/server-binary.ts'

const PACKAGES = ['redis-server', 'valkey-server'] as const
const OLDEST_MAJOR = 7
const ASIDE = 'set REDIS_URL to a Redis you already run'

/** Best known commands where we do not install ourselves. */
const MANUAL = {
  'apt-get': 'apt-get update && apt-get install -y redis-server',
  dnf: 'dnf install -y valkey',
  yum: 'yum install -y redis',
  apk: 'apk add redis',
  pacman: 'pacman -S --noconfirm valkey',
  zypper: 'zypper --non-interactive install redis',
  brew: 'brew install redis',
} as const

/**
 * Installs the distribution's redis-server (or valkey-server) package, where that needs no question: with apt-get, as
 * root or with passwordless sudo, and unless `AS_ONE_INSTALL_REDIS=0`.
 *
 * @param say is told what is about to be done, one line each
 * @throws SharedStateError whose message ends with the one command to run instead
 */
export async function installRedis(env: NodeJS.ProcessEnv, say: (line: string) => void): Promise<void> {
  const manager = Object.keys(MANUAL).find((name) => findInPath(name, env)) as keyof typeof MANUAL | undefined
  if (!manager)
    throw cannot(`found none of ${Object.keys(MANUAL).join(', ')}: install redis-server >= 7.0, or ${ASIDE}`)
  const isRoot = process.getuid?.() === 0
  const manual = withSudo(MANUAL[manager], isRoot || manager === 'brew')
  if (env.AS_ONE_INSTALL_REDIS === '0') throw cannot(`AS_ONE_INSTALL_REDIS=0 forbids it; run: ${manual}`)
  if (manager !== 'apt-get') throw cannot(`this is not a system with apt-get; run: ${manual}`)
  const run = isRoot ? runner([], env) : runner(['sudo', '-n'], env)
  if (!isRoot && !(await mayUseSudo(env))) throw cannot(`it needs root or passwordless sudo; run: ${manual}`)

  let candidate = await candidateOf(env)
  if (!candidate) {
    say('apt-get update: the package lists are missing')
    await orExplain(run(['apt-get', 'update']), 'apt-get update', manual)
    candidate = await candidateOf(env)
  }
  if (!candidate) throw cannot(`this system's package lists have neither ${PACKAGES.join(' nor ')}; ${ASIDE}`)
  const { name, version } = candidate
  if (Number.parseInt(version, 10) < OLDEST_MAJOR) {
    throw cannot(
      `this system offers ${name} ${version}, as-one needs >= 7.0: see https://redis.io/docs/latest/operate/oss_and_stack/install/, or ${ASIDE}`,
    )
  }
  say(`installing the package ${name} ${version} with apt-get; its service is not started`)
  const install = (): Promise<Outcome> => run(['sh', '-c', INSTALL, 'as-one-install', name])
  const first = await install()
  if (first.code === 0) return
  // Old lists name files that the mirror no longer has.
  say('apt-get update: the first attempt failed')
  await orExplain(run(['apt-get', 'update']), 'apt-get update', manual)
  await orExplain(install(), `apt-get install ${name}`, manual)
}

/**
 * Only this installation may not start a service: the rule is about Redis alone, is put in place only where there is
 * none, and switches itself off when this shell has died.
 */
const INSTALL = `
policy=/usr/sbin/policy-rc.d
if (set -C; : >"$policy") 2>/dev/null; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 1' HUP INT TERM
  cat >"$policy" <<RULE
#!/bin/sh
# In place while "as-one doctor --fix" installs Redis, to be removed if found later.
kill -0 $$ 2>/dev/null || exit 0
case "\\$*" in *redis*|*valkey*) exit 101 ;; esac
exit 0
RULE
  chmod 755 "$policy"
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 "$1"
`

interface Outcome {
  readonly code: number | null
  readonly output: string
}

function runner(
  prefix: readonly string[],
  env: NodeJS.ProcessEnv,
): (command: readonly string[]) => Promise<Outcome> {
  // dpkg insists on tools that only root's PATH has.
  const ownEnv = {
    ...env,
    PATH: `${env.PATH ?? ''}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`,
    LC_ALL: 'C.UTF-8',
  }
  return (command) =>
    new Promise((resolve, reject) => {
      const [program = '', ...args] = [...prefix, ...command]
      const child = spawn(program, args, { env: ownEnv, stdio: ['ignore', 'pipe', 'pipe'] })
      let output = ''
      const collect = (text: string): void => {
        output = (output + text).slice(-4_000)
      }
      child.stdout.setEncoding('utf8').on('data', collect)
      child.stderr.setEncoding('utf8').on('data', collect)
      child.once('error', reject)
      child.once('close', (code) => resolve({ code, output }))
    })
}

async function mayUseSudo(env: NodeJS.ProcessEnv): Promise<boolean> {
  return findInPath('sudo', env) !== undefined && (await runner([], env)(['sudo', '-n', 'true'])).code === 0
}

async function candidateOf(env: NodeJS.ProcessEnv): Promise<{ name: string; version: string } | undefined> {
  for (const name of PACKAGES) {
    const { output } = await runner([], env)(['apt-cache', 'policy', name])
    const version = /^\s*Candidate:\s*(?:\d+:)?(\d\S*)/m.exec(output)?.[1]
    if (version) return { name, version }
  }
  return undefined
}

async function orExplain(outcome: Promise<Outcome>, what: string, manual: string): Promise<void> {
  const { code, output } = await outcome
  if (code === 0) return
  const reason = output
    .trim()
    .split('\n')
    .filter((line) => /^(E|W|Err|dpkg|sudo)[ :]/.test(line))
    .slice(-3)
    .join(' ')
  throw cannot(`${what} failed with exit code ${code}${reason && `, ${reason}`}; run: ${manual}`)
}

function withSudo(command: string, isRoot: boolean): string {
  return isRoot ? command : command.replace(/(^|&& )/g, '$1sudo ')
}

function cannot(why: string): SharedStateError {
  return new SharedStateError('ERR_AS_ONE_LOCAL_REDIS', `cannot install redis-server: ${why}`)
}

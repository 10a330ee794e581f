import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Command } from 'commander'
import { builtFile } from '../core/built-file.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import { say } from './say.ts'

interface StartupOptions {
  user?: string
  home?: string
  dir: string
  print?: true
  remove?: true
}

const MAIN = fileURLToPath(builtFile('cli/main.js'))
const UNIT_DIR = '/etc/systemd/system'

export function addStartup(program: Command): void {
  program
    .command('startup')
    .description('have systemd start the saved apps at boot')
    .option('--user <name>', 'whose apps; default: you')
    .option('--home <dir>', 'of that user')
    .option('--dir <dir>', 'where the unit is written', UNIT_DIR)
    .option('--print', 'print the unit, write nothing')
    .option('--remove', 'disable and remove it')
    .addHelpText(
      'after',
      `
One unit per user runs 'as-one resurrect --foreground': one primary per saved app, in systemd's hands.
Variables that the apps need and that are in no ecosystem file belong into ~/.config/as-one/env (NAME=value lines, mode 0600).

Examples:
  as-one startup && as-one save
  as-one startup --print > as-one.service
  sudo as-one startup --user deploy --home /home/deploy

Exit codes: 0, 1 when the unit could not be written or enabled; the command to run instead is printed.`,
    )
    .action(async (options: StartupOptions) => {
      const me = userInfo()
      const user = options.user ?? me.username
      const home = options.home ?? (user === me.username ? (process.env.HOME ?? me.homedir) : `/home/${user}`)
      const unit = unitOf(user, home)
      if (options.print) {
        process.stdout.write(unit)
        return
      }
      const name = `as-one-${user}.service`
      const path = join(options.dir, name)
      const isSystem = options.dir === UNIT_DIR
      if (options.remove) {
        if (isSystem) await systemctl(['disable', '--now', name])
        rmSync(path, { force: true })
        process.stdout.write(`removed ${path}\n`)
        return
      }
      if (isSystem && process.getuid?.() !== 0) {
        throw new SharedStateError(
          'ERR_AS_ONE_OPTIONS',
          `startup writes to ${UNIT_DIR} and needs root; run: sudo env PATH=$PATH ${process.execPath} ${MAIN} startup --user ${user} --home ${home}`,
        )
      }
      try {
        mkdirSync(options.dir, { recursive: true })
        writeFileSync(path, unit, { mode: 0o644 })
      } catch (error) {
        throw new SharedStateError('ERR_AS_ONE_OPTIONS', `startup cannot write ${path}: ${messageOf(error)}`)
      }
      process.stdout.write(`wrote ${path}\n`)
      if (!isSystem) return
      if (!existsSync('/run/systemd/system')) {
        say(`systemd does not run here; when it does: systemctl daemon-reload && systemctl enable ${name}`)
        return
      }
      await systemctl(['daemon-reload'])
      await systemctl(['enable', name])
      process.stdout.write(`enabled ${name}: what 'as-one save' notes starts at boot\n`)
    })
}

/** systemd.service(5). The stop deadline is longer than the default drain and two rounds of it. */
export function unitOf(user: string, home: string, env: NodeJS.ProcessEnv = process.env): string {
  const path = (text: string): string => {
    if (/[\n"\\]/.test(text))
      throw new SharedStateError(
        'ERR_AS_ONE_OPTIONS',
        `startup: ${JSON.stringify(text)} cannot stand in a unit file`,
      )
    return `"${text.replaceAll('%', '%%').replaceAll('$', '$$$$')}"`
  }
  const variable = (name: string, value: string): string =>
    `Environment=${path(`${name}=${value}`).replaceAll('$$', '$')}`
  if (!/^[a-z_][a-z0-9_-]*\$?$/i.test(user))
    throw new SharedStateError('ERR_AS_ONE_OPTIONS', `startup: '${user}' is no user name`)
  const { XDG_STATE_HOME: state, PATH = '/usr/local/bin:/usr/bin:/bin' } = env
  return `[Unit]
Description=as-one: the apps of ${user}
Documentation=https://www.npmjs.com/package/as-one
Wants=network-online.target
After=network-online.target redis-server.service redis.service valkey.service

[Service]
Type=notify
# systemd-notify speaks for the main process.
NotifyAccess=all
User=${user}
${variable('HOME', home)}
${variable('PATH', PATH)}
${state ? `${variable('XDG_STATE_HOME', state)}\n` : ''}EnvironmentFile=-${path(join(home, '.config/as-one/env')).slice(1, -1)}
ExecStart=${path(process.execPath)} ${path(MAIN)} resurrect --foreground
ExecReload=/bin/kill -HUP $MAINPID
# SIGTERM to the main process alone, which drains the workers; what is left at the deadline is killed.
KillMode=mixed
TimeoutStartSec=120
TimeoutStopSec=45
Restart=on-failure
RestartSec=2
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
`
}

async function systemctl(args: readonly string[]): Promise<void> {
  try {
    await promisify(execFile)('systemctl', args)
  } catch (error) {
    throw new SharedStateError(
      'ERR_AS_ONE_OPTIONS',
      `systemctl ${args.join(' ')} failed: ${messageOf(error)}`,
    )
  }
}

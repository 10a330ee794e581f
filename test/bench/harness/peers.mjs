import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const folder = fileURLToPath(new URL('../peers/', import.meta.url))

/** Whether a peer lies in its folder, in the version of the lock file. */
export function isInstalled(name) {
  const manifest = `${folder}node_modules/${name}/package.json`
  const { packages } = JSON.parse(readFileSync(`${folder}package-lock.json`, 'utf8'))
  return (
    existsSync(manifest) &&
    JSON.parse(readFileSync(manifest, 'utf8')).version === packages[`node_modules/${name}`]?.version
  )
}

/** Installs all peers into their own folder, unless they are there. */
export function installPeers(names, say) {
  if (names.every(isInstalled)) return
  say(`installing what is compared with, into test/bench/peers (npm ci)`)
  const npm = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
    cwd: folder,
    encoding: 'utf8',
  })
  if (npm.status === 0) return
  throw new Error(`npm ci in test/bench/peers failed:\n${npm.stderr}`)
}

/** The contenders whose libraries are not there. */
export function absentContenders(suite) {
  return new Set(
    Object.entries(suite.needs ?? {})
      .filter(([, libraries]) => !libraries.every(isInstalled))
      .map(([contender]) => contender),
  )
}

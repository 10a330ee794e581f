import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const path = (name) => fileURLToPath(new URL(`../peers/${name}`, import.meta.url))

/** Each with a package.json and a lock file of its own; the second one brings its Node along. */
const folders = [
  { folder: path(''), usable: true },
  { folder: path('node-24/'), usable: process.platform === 'linux' && process.arch === 'x64' },
]

const lockOf = (folder) => JSON.parse(readFileSync(`${folder}package-lock.json`, 'utf8')).packages

const homeOf = (name) => folders.find(({ folder }) => `node_modules/${name}` in lockOf(folder))

/** Version of a peer, by its lock file. */
export const peerVersion = (name) => {
  const home = homeOf(name)
  return home && lockOf(home.folder)[`node_modules/${name}`].version
}

/** Whether a peer lies in its folder, in the version of the lock file. */
export function isInstalled(name) {
  const home = homeOf(name)
  const manifest = `${home?.folder}node_modules/${name}/package.json`
  return existsSync(manifest) && JSON.parse(readFileSync(manifest, 'utf8')).version === peerVersion(name)
}

/** Installs the peers into their own folders, unless they are there. */
export function installPeers(names, say) {
  for (const { folder, usable } of folders) {
    const missing = names.filter((name) => homeOf(name)?.folder === folder && !isInstalled(name))
    if (missing.length === 0) continue
    if (!usable) {
      say(`left out on this machine: ${missing.join(', ')}`)
      continue
    }
    say(`installing what is compared with, into ${folder} (npm ci)`)
    const npm = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
      cwd: folder,
      encoding: 'utf8',
    })
    if (npm.status !== 0) throw new Error(`npm ci in ${folder} failed:\n${npm.stderr}`)
  }
}

/** The contenders whose libraries are not there. */
export function absentContenders(suite) {
  return new Set(
    Object.entries(suite.needs ?? {})
      .filter(([, libraries]) => !libraries.every(isInstalled))
      .map(([contender]) => contender),
  )
}

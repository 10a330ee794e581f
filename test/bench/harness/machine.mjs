import { readFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { peerVersion } from './peers.mjs'
import { redisVersion } from './redis.mjs'

const root = new URL('../../../', import.meta.url)

/** What the figures were taken on and with. */
export async function machine(libraries) {
  const { packages: own } = JSON.parse(readFileSync(new URL('package-lock.json', root), 'utf8'))
  const versionOf = (name) => own[`node_modules/${name}`]?.version ?? peerVersion(name)
  return {
    date: new Date().toISOString().slice(0, 10),
    cpu: `${cpus().length} x ${cpus()[0]?.model.trim()}`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GB`,
    node: process.versions.node,
    redis: await redisVersion(),
    libraries: libraries.map((name) => `${name} ${versionOf(name)}`),
  }
}

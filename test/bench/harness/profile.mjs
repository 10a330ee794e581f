import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { markdown } from './report.mjs'

const WARM_UP_MS = 4_000
const PROFILE_MS = 6_000
const FUNCTIONS = 40

/** Where the CPU of a request goes: self time by part and by function, each contender beside the others. */
export async function profileCase(suite, { name, contenders }, { say, absent }) {
  const profiles = {}
  const costs = {}
  const profiled = suite.profiled ?? Object.keys(contenders).slice(0, 2)
  for (const contender of profiled.filter((each) => !absent.has(each))) {
    say(`${suite.name}, ${name}: profiling ${contender}`)
    const profileDir = mkdtempSync(join(tmpdir(), 'bench-profile-'))
    const subject = await contenders[contender]({ smoke: false, profileDir })
    try {
      await subject.sample(WARM_UP_MS)
      const { appUs } = await subject.profile(() => subject.sample(PROFILE_MS))
      costs[contender] = appUs
      profiles[contender] = selfTimes(profileDir)
    } finally {
      await subject.close()
      rmSync(profileDir, { recursive: true, force: true })
    }
  }
  const parts = tableBy(profiles, costs, ({ part }) => part, 40)
  const functions = tableBy(profiles, costs, ({ part, where }) => `${part}: ${where}`, FUNCTIONS)
  return `### ${name}: self time, µs per request (profiled)\n\n${parts}\n\n${functions}`
}

/** Shares of the busy time, over all workers. */
function selfTimes(dir) {
  const shares = new Map()
  let total = 0
  for (const file of readdirSync(dir)) {
    const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(join(dir, file), 'utf8'))
    const byId = new Map(nodes.map((node) => [node.id, node]))
    for (let i = 0; i < samples.length; i++) {
      const { callFrame } = byId.get(samples[i])
      if (callFrame.functionName === '(idle)') continue
      const key = JSON.stringify(placeOf(callFrame))
      shares.set(key, (shares.get(key) ?? 0) + timeDeltas[i])
      total += timeDeltas[i]
    }
  }
  return [...shares].map(([key, us]) => ({ ...JSON.parse(key), share: us / total }))
}

function placeOf({ functionName, url, lineNumber }) {
  if (!url) return { part: functionName || '(native)', where: '' }
  const where = `${functionName || '(anonymous)'} ${url.split('/').pop()}:${lineNumber + 1}`
  if (url.startsWith('node:')) return { part: partOfNode(url), where }
  const library = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(
    url.slice(url.lastIndexOf('/node_modules/')),
  )?.[1]
  if (library) return { part: library, where }
  return { part: url.includes('/dist/') ? `as-one/${roomOf(url, lineNumber)}` : 'app', where }
}

const linesByUrl = new Map()

/** The bundler says above each module which file it was: `// build/session/store.js`. */
function roomOf(url, lineNumber) {
  if (!linesByUrl.has(url)) linesByUrl.set(url, readFileSync(new URL(url), 'utf8').split('\n'))
  const above = linesByUrl.get(url).slice(0, lineNumber + 1)
  const mark = /^\/\/(?:#region)? build\/([^/.]+)/
  return mark.exec(above.findLast((line) => mark.test(line)))?.[1] ?? 'other'
}

function partOfNode(url) {
  if (/_http|internal\/http/.test(url)) return 'node http'
  if (/net|stream_base|stream/.test(url)) return 'node net, streams'
  if (/timers/.test(url)) return 'node timers'
  return 'node other'
}

function tableBy(profiles, costs, keyOf, most) {
  const names = Object.keys(profiles)
  const sums = new Map()
  for (const name of names) {
    for (const each of profiles[name]) {
      const key = keyOf(each)
      const row = sums.get(key) ?? {}
      row[name] = (row[name] ?? 0) + each.share * costs[name]
      sums.set(key, row)
    }
  }
  const rows = [...sums]
    .map(([key, row]) => [key, ...names.map((name) => (row[name] ?? 0).toFixed(1))])
    .sort((a, b) => b[1] - a[1])
    .slice(0, most)
  return markdown(['', ...names], [['all', ...names.map((name) => costs[name].toFixed(1))], ...rows])
}

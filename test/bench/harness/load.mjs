import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { start } from './processes.mjs'

const script = fileURLToPath(new URL('wrk.lua', import.meta.url))

/** A sentence when the load generator is missing. */
export function missingLoadGenerator() {
  const found = spawnSync('wrk', ['--version'], { stdio: 'ignore' })
  if (!found.error) return undefined
  return 'npm run bench needs the load generator wrk: apt-get update && apt-get install -y wrk (or brew install wrk)'
}

/**
 * Closed-loop load by wrk: of the two cores of a small machine it takes 9 µs per request, autocannon took 19 (measured
 * on a bare node:http server, which autocannon slowed down to 0.78 of the requests per second).
 */
export async function load(url, requests, { ms, connections }) {
  const dir = mkdtempSync(join(tmpdir(), 'bench-'))
  const file = join(dir, 'requests.tsv')
  writeFileSync(file, `${requests.map(lineOf).join('\n')}\n`)
  const seconds = Math.max(1, Math.round(ms / 1_000))
  const args = ['-t1', `-c${connections}`, `-d${seconds}s`, '--timeout', '10s', '-s', script, url, '--', file]
  const wrk = start('wrk', args)
  try {
    const [, json] = await wrk.waitFor(/^wrk: (.*)$/m, ms + 30_000)
    return JSON.parse(json)
  } finally {
    await wrk.stop()
    rmSync(dir, { recursive: true, force: true })
  }
}

/** A few requests from this process, where nothing is measured. */
export async function fewRequests(url, requests, count) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 8 })
  const startedAt = performance.now()
  try {
    await Promise.all(
      Array.from({ length: count }, async (_, i) => {
        const { path, headers } = requests[i % requests.length]
        const reply = await get(url + path, { headers, agent })
        if (reply.status !== 200) throw new Error(`${url}${path} answered ${reply.status}: ${reply.body}`)
      }),
    )
  } finally {
    agent.destroy()
  }
  return {
    requests: count,
    us: (performance.now() - startedAt) * 1e3,
    refused: 0,
    broken: 0,
    p50Us: 0,
    p99Us: 0,
  }
}

export function get(url, { headers = {}, agent = false } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { headers, agent, timeout: 10_000 }, (response) => {
      let body = ''
      response.setEncoding('utf8').on('data', (text) => {
        body += text
      })
      response.once('error', reject)
      response.once('end', () => resolve({ status: response.statusCode, headers: response.headers, body }))
    })
    request.once('timeout', () => request.destroy(new Error(`no answer from ${url}`)))
    request.once('error', reject)
  })
}

const lineOf = ({ path, headers = {} }) => [path, ...Object.entries(headers).flat()].join('\t')

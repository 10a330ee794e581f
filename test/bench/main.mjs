#!/usr/bin/env node
// npm run bench [suite…] [-- --case TCP] [--rounds 4] [--bars] [--profile] [--save]; see README.md.
import { readdirSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { missingLoadGenerator } from './harness/load.mjs'
import { machine } from './harness/machine.mjs'
import { absentContenders, installPeers } from './harness/peers.mjs'
import { profileCase } from './harness/profile.mjs'
import { machineLines, tableOf } from './harness/report.mjs'
import { runCase, smoke } from './harness/run.mjs'
import { save } from './harness/save.mjs'

const known = readdirSync(new URL('suites/', import.meta.url)).map((file) => file.replace(/\.mjs$/, ''))

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    case: { type: 'string' },
    rounds: { type: 'string' },
    sittings: { type: 'string' },
    seconds: { type: 'string' },
    profile: { type: 'boolean', default: false },
    smoke: { type: 'boolean', default: false },
    bars: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
})

const SMOKES_AT_ONCE = 4
const say = (line) => process.stderr.write(`${line}\n`)
const chosen = positionals.length > 0 ? positionals : known

try {
  const unknown = chosen.filter((name) => !known.includes(name))
  if (unknown.length > 0) throw new Error(`no suite ${unknown.join(', ')}; there are ${known.join(', ')}`)
  const suites = []
  for (const name of chosen) {
    const { default: suite } = await import(`./suites/${name}.mjs`)
    suites.push({ name, ...suite })
  }
  if (values.smoke) await smokeAll(suites)
  else await measure(suites)
  process.exit()
} catch (error) {
  say(`bench: ${error instanceof Error ? error.message : error}`)
  process.exit(1)
}

/** Of each suite's first case all contenders that are installed, of others that differ ours: a few requests each. */
async function smokeAll(suites) {
  const jobs = suites.flatMap((suite) => {
    const absent = absentContenders(suite)
    if (absent.size > 0) say(`${suite.name}: not installed: ${[...absent].join(', ')}`)
    return suite.cases.flatMap(({ name, contenders, smoked }, i) =>
      Object.entries(contenders)
        .filter(([who]) => !absent.has(who))
        .filter(([who]) => suite.smoked?.includes(who) ?? (i === 0 || (smoked && who === 'as-one')))
        .map(([who, open]) => ({ what: `${suite.name}, ${name}: ${who}`, open })),
    )
  })
  const runner = async () => {
    for (let job = jobs.shift(); job; job = jobs.shift()) {
      const { what, open } = job
      await smoke(open).catch((error) => {
        throw new Error(`${what}: ${error.message}`)
      })
      say(`ok: ${what}`)
    }
  }
  await Promise.all(Array.from({ length: SMOKES_AT_ONCE }, runner))
}

async function measure(suites) {
  const missing = missingLoadGenerator()
  if (missing) throw new Error(missing)
  installPeers([...new Set(suites.flatMap(({ needs = {} }) => Object.values(needs).flat()))], say)
  const options = Object.fromEntries(
    [
      ['rounds', values.rounds],
      ['sittings', values.sittings],
      ['mostSittings', values.sittings],
      ['sampleMs', values.seconds && values.seconds * 1_000],
    ]
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => [name, Number(value)]),
  )
  for (const suite of suites) {
    const absent = absentContenders(suite)
    const judged = new Set(suite.bars.map((bar) => bar.case))
    const cases = suite.cases.filter(
      ({ name }) => (!values.case || name === values.case) && (!values.bars || judged.has(name)),
    )
    if (cases.length === 0) throw new Error(`${suite.name} has no case ${values.case}`)
    const on = await machine(suite.libraries ?? [])
    console.log(`\n## ${suite.title}\n\n${suite.about}\n\n${machineLines(on)}`)
    const results = []
    for (const each of cases) {
      if (values.profile) {
        console.log(`\n${await profileCase(suite, each, { say, absent })}`)
        continue
      }
      const result = await runCase(suite, each, { options, say, absent })
      results.push(result)
      console.log(`\n${tableOf(suite, result)}`)
    }
    if (values.save && results.length > 0) save(suite, results, on)
  }
}

import { cpus } from 'node:os'
import { watchOthers } from './foreign.mjs'
import { median, spread, verdictOf } from './verdict.mjs'

const DEFAULTS = { sittings: 3, mostSittings: 4, rounds: 4, sampleMs: 1_000, warmUpMs: 2_000, runUpMs: 0 }

const cores = cpus().length

/** A round during which others used more than this share of the machine says little, and is measured again … */
const QUIET = 0.04
/** … as often as this, per round that is wanted. A machine that is never quiet gives wide intervals instead. */
const MOST_REPEATS = 0.5
/** A round in which a contender left requests unanswered is told with the results and repeated, so often in a case. */
const MOST_BROKEN = 2

/**
 * One case of a suite: all contenders are open at the same time and measured in changing turns, so that
 * whatever the machine does meanwhile happens to all of them. Each sitting starts them anew, because a process keeps
 * the luck of its start (memory layout, compiled code). An undecided bar adds sittings.
 */
export async function runCase(suite, { name, contenders, ...own }, { options, say, absent }) {
  const plan = { ...DEFAULTS, ...suite.plan, ...own.plan, ...options }
  const names = Object.keys(contenders).filter((each) => !absent.has(each))
  const bars = suite.bars.filter(
    (bar) => bar.case === name && barNeeds(bar).every((each) => names.includes(each)),
  )
  const rounds = []
  const broken = []
  let facts = {}
  let verdicts = []
  for (let sitting = 0; sitting < plan.mostSittings; sitting++) {
    if (sitting >= plan.sittings && !verdicts.some(({ verdict }) => verdict === 'undecided')) break
    say(`${suite.name}, ${name}: sitting ${sitting + 1}`)
    const told = await sit(contenders, names, { ...plan, sitting }, { rounds, broken }, say)
    facts = told ?? facts
    verdicts = bars.map((bar) => ({ ...bar, ...verdictOf(bar, rounds, facts) }))
  }
  return {
    name,
    names,
    rounds: rounds.length,
    broken,
    figures: figuresOf(names, rounds),
    facts,
    verdicts,
    added: suite.added,
  }
}

async function sit(contenders, names, plan, { rounds, broken }, say) {
  const open = new Map()
  try {
    for (const name of turn(names, plan.sitting)) open.set(name, await contenders[name]({ smoke: false }))
    // In the same turns as what counts: whoever is warm and then waits for all others to become so is cold again.
    say('  warming up')
    const warmUpRounds = Math.ceil(plan.warmUpMs / plan.sampleMs)
    for (let i = -warmUpRounds; i < 0; i++) {
      for (const name of inTurn(names, i)) {
        await heat(open.get(name), plan.sampleMs)
      }
    }
    let repeats = plan.rounds * MOST_REPEATS
    for (let i = 0; i < plan.rounds; ) {
      const round = { sitting: plan.sitting }
      const others = watchOthers()
      try {
        for (const name of inTurn(names, i)) {
          if (plan.runUpMs > 0) await heat(open.get(name), plan.runUpMs)
          round[name] = await open
            .get(name)
            .sample(plan.sampleMs)
            .catch((error) => {
              throw new Error(`${name}: ${error.message}`)
            })
        }
      } catch (error) {
        broken.push(error.message)
        if (broken.length > MOST_BROKEN) throw error
        say(`  not counted, ${error.message}`)
        continue
      }
      const share = others()
      const told = names.map((name) => `${name} ${Math.round(round[name].rate)}/s`).join(', ')
      if (share > QUIET && repeats > 0) {
        repeats -= 1
        say(`  not counted, others used ${Math.round(share * 100)} % of the machine: ${told}`)
        continue
      }
      i += 1
      rounds.push(round)
      say(`  round ${i}: ${told}`)
    }
    if (plan.sitting > 0) return undefined // commands and memory are no matter of luck
    const facts = {}
    for (const [name, subject] of open) {
      facts[name] = { ...(await subject.facts?.()), ...(subject.readyMs && { readyMs: subject.readyMs }) }
    }
    return facts
  } finally {
    for (const subject of open.values()) await subject.close()
  }
}

/** Each process compiles for itself: where more of them share the cores, each gets less done in a second. */
const heat = (subject, ms) => subject.sample(ms * Math.max(1, (subject.coresWanted ?? 1) / cores))

/** So that nobody is always first, nor always after the same one. */
const inTurn = (names, round) => {
  const turned = turn(names, Math.floor(round / 2))
  return round % 2 ? turned.toReversed() : turned
}
const turn = (names, by) => {
  const at = ((by % names.length) + names.length) % names.length
  return [...names.slice(at), ...names.slice(0, at)]
}

/** A contender is opened, checked and used for a moment: says nothing about speed. */
export async function smoke(open) {
  const subject = await open({ smoke: true })
  try {
    const { rate } = await subject.sample(50)
    if (!(rate > 0)) throw new Error('it did nothing')
    await subject.facts?.()
  } finally {
    await subject.close()
  }
}

function figuresOf(names, rounds) {
  const figures = {}
  for (const name of names) {
    figures[name] = {}
    for (const metric of Object.keys(rounds[0]?.[name] ?? {})) {
      const values = rounds.map((round) => round[name][metric]).filter((value) => value !== undefined)
      figures[name][metric] = { median: median(values), spread: spread(values) }
    }
  }
  return figures
}

/** The contenders a bar speaks of, found by letting it look. */
function barNeeds(bar) {
  const asked = new Set()
  const anything = new Proxy({}, { get: () => 1 })
  const looked = new Proxy(
    {},
    {
      get(_target, name) {
        asked.add(name)
        return anything
      },
    },
  )
  ;(bar.fact ?? bar.value)(looked)
  return [...asked]
}

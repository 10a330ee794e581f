import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { machineLines, markdown, significant, tableOf } from './report.mjs'
import { plotOf } from './svg.mjs'

const root = new URL('../../../', import.meta.url)
const results = new URL('test/bench/results/', root)
const readme = new URL('test/bench/README.md', root)
const RUNS_KEPT = 2

/** Keeps what was measured, case by case, and writes the tables, the pictures and the list of bars anew. */
export function save(suite, measured, on) {
  mkdirSync(results, { recursive: true })
  const file = new URL(`${suite.name}.json`, results)
  const kept = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : { cases: {} }
  for (const result of measured) {
    const runs = kept.cases[result.name] ?? []
    kept.cases[result.name] = [{ on, ...result }, ...runs].slice(0, RUNS_KEPT)
  }
  kept.cases = Object.fromEntries(
    suite.cases.filter(({ name }) => kept.cases[name]).map(({ name }) => [name, kept.cases[name]]),
  )
  writeFileSync(file, `${JSON.stringify(kept, null, 1)}\n`)
  const latest = Object.values(kept.cases).map(([run]) => run)
  const tables = latest.map((run) => `${tableOf(suite, run)}\n\n${machineLines(run.on)}`)
  writeFileSync(
    new URL(`${suite.name}.md`, results),
    `# ${suite.title}\n\n\`npm run bench ${suite.name}\`. ${suite.about}\n\n${tables.join('\n\n')}\n`,
  )
  writeFileSync(new URL(`.github/bench-${suite.name}.svg`, root), plotOf(suite, latest))
  writeFileSync(readme, withBars(readFileSync(readme, 'utf8')))
}

const BEGIN = '<!-- bars -->'
const END = '<!-- /bars -->'

/** All bars of all suites, with the verdicts of the last runs, newest first. */
function withBars(text) {
  const rows = []
  for (const file of readdirSync(results).filter((name) => name.endsWith('.json'))) {
    const { cases } = JSON.parse(readFileSync(new URL(file, results), 'utf8'))
    const name = file.replace(/\.json$/, '')
    for (const [caseName, runs] of Object.entries(cases)) {
      for (const { what, min, max, goal } of runs[0].verdicts) {
        const of = runs.map(({ verdicts }) => verdicts.find((each) => each.what === what)).filter(Boolean)
        rows.push([
          `${what} (${caseName})`,
          `${min !== undefined ? `>= ${significant(min)}` : `<= ${significant(max)}`}${goal ? `, goal ${goal}` : ''}`,
          of.map(({ figure }) => significant(figure)).join(', '),
          of.map(({ verdict }) => verdict).join(', '),
          `[${name}](results/${name}.md)`,
        ])
      }
    }
  }
  const table = markdown(['bar', 'wanted', 'figures of the last runs', 'verdicts', 'suite'], rows)
  return text.replace(new RegExp(`${BEGIN}[\\s\\S]*${END}`), `${BEGIN}\n${table}\n${END}`)
}

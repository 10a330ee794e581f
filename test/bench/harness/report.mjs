const COLUMNS = {
  rate: ['per second', (v) => thousands(v)],
  appUs: ['app CPU, µs', fixed(1)],
  primaryUs: ['of it primary, µs', fixed(2)],
  redisUs: ['Redis CPU, µs', fixed(1)],
  sent: ['commands', fixed(2)],
  bytes: ['Redis bytes', fixed(0)],
  p50Ms: ['p50, ms', fixed(2)],
  p99Ms: ['p99, ms', fixed(2)],
  workersMb: ['MB per worker', fixed(0)],
  primaryMb: ['MB primary', fixed(0)],
  idlePrimaryMb: ['MB idle primary', fixed(0)],
  readyMs: ['ready, ms', fixed(0)],
}

/** A case as Markdown: one line per contender, medians over the rounds. */
export function tableOf(suite, { name, names, rounds, broken = [], figures, facts, verdicts }) {
  const columns = suite.columns.map((key) => (typeof key === 'string' ? { key, ...columnOf(key) } : key))
  const shown = columns.filter(({ key }) =>
    names.some((each) => cellOf(figures, facts, each, key) !== undefined),
  )
  const added = suite.added && figures[suite.added]?.appUs.median
  const head = [name, ...shown.map(({ label }) => label), ...(added ? ['added CPU, µs'] : []), 'spread']
  const rows = names.map((each) => [
    each,
    ...shown.map(({ key, print }) => {
      const value = cellOf(figures, facts, each, key)
      return value === undefined || Number.isNaN(value) ? '' : print(value)
    }),
    ...(added ? [each === suite.added ? '' : fixed(1)(figures[each].appUs.median - added)] : []),
    figures[each].rate ? `±${Math.round(figures[each].rate.spread * 100)} %` : '',
  ])
  const parts = [
    markdown(head, rows),
    `Medians of ${rounds} interleaved rounds; spread: half the quartile distance.`,
  ]
  if (broken.length > 0) parts.push(`Measured again, and not among them: ${broken.join('; ')}.`)
  const commands = names
    .filter((each) => facts[each]?.commands?.length > 0)
    .map(
      (each) =>
        `- ${each} sends ${facts[each].commands.map(([what, n]) => `${what} ${fixed(2)(n)}`).join(', ')}`,
    )
  if (commands.length > 0) parts.push(commands.join('\n'))
  if (verdicts.length > 0) parts.push(verdictTable(verdicts))
  return parts.join('\n\n')
}

export function verdictTable(verdicts) {
  const rows = verdicts.map(({ what, min, max, goal, figure, low, high, verdict }) => [
    what,
    `${min !== undefined ? `>= ${min}` : `<= ${max}`}${goal ? ` (goal ${goal})` : ''}`,
    significant(figure),
    low === high ? '' : `${significant(low)} to ${significant(high)}`,
    verdict,
  ])
  return markdown(['bar', 'wanted', 'figure', '95 % interval', 'verdict'], rows)
}

export function machineLines({ date, cpu, memory, node, redis, libraries }) {
  return `${date} · ${cpu}, ${memory} · Node ${node} · Redis ${redis} · ${libraries.join(', ')}`
}

function cellOf(figures, facts, contender, key) {
  return figures[contender]?.[key]?.median ?? facts[contender]?.[key]
}

function columnOf(key) {
  const [label, print] = COLUMNS[key] ?? [key, significant]
  return { label, print }
}

export function markdown(head, rows) {
  const all = [head, ...rows].map((row) => row.map(String))
  const widths = head.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)))
  const line = (row) =>
    `| ${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join(' | ')} |`
  const rule = `| ${widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)).join(' | ')} |`
  return [line(all[0]), rule, ...all.slice(1).map(line)].join('\n')
}

export function thousands(value) {
  return Math.round(value).toLocaleString('en-US')
}

function fixed(digits) {
  return (value) => value.toFixed(digits)
}

export function significant(value) {
  if (Math.abs(value) >= 1_000) return thousands(value)
  return String(Number(value.toPrecision(3)))
}

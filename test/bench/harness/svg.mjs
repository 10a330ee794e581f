import { significant } from './report.mjs'

const WIDTH = 760
const LABEL = 190
const BAR = 22
const STEP = 30
const HEAD = 58

/** Bars per case with their spread, readable on light and dark pages. */
export function plotOf({ title, plot, name }, runs) {
  const groups = runs.map(({ name: caseName, names, figures }) => ({
    caseName,
    bars: names
      .filter((each) => figures[each]?.[plot.metric])
      .map((each) => ({ label: each, ...figures[each][plot.metric] })),
  }))
  const parts = []
  let y = HEAD
  for (const { caseName, bars } of groups) {
    const most = Math.max(...bars.map(({ median, spread }) => median * (1 + spread)), 1e-9)
    const scale = (WIDTH - LABEL - 110) / most
    parts.push(text(16, y + 15, caseName, 'case'))
    y += 26
    for (const { label, median, spread } of bars) {
      const width = Math.max(1, median * scale)
      const [from, to] = [median * (1 - spread) * scale, median * (1 + spread) * scale]
      const middle = y + BAR / 2
      parts.push(
        text(LABEL - 10, middle + 4, label, 'label'),
        `<rect x="${LABEL}" y="${y}" width="${round(width)}" height="${BAR}" rx="3" class="${label.startsWith('as-one') ? 'ours' : 'theirs'}"/>`,
        `<path d="M${round(LABEL + from)} ${middle}H${round(LABEL + to)}" class="spread"/>`,
        text(LABEL + Math.max(width, to) + 8, middle + 4, `${significant(median)} ${plot.unit}`, 'value'),
      )
      y += STEP
    }
    y += 12
  }
  const { date, cpu, node, redis } = runs[0].on
  const height = y + 22
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escaped(`${title}: ${plot.title}`)}">
<style>
svg{font:13px system-ui,sans-serif;background:#fff}
text{fill:#1f2328}.title{font-size:17px;font-weight:600}.case{font-weight:600}.label{text-anchor:end}.small{font-size:11px;fill:#59636e}
.value{font-variant-numeric:tabular-nums}.ours{fill:#0f766e}.theirs{fill:#afb8c1}.spread{stroke:#1f2328;stroke-opacity:.55;stroke-width:2}
@media(prefers-color-scheme:dark){svg{background:#0d1117}text{fill:#e6edf3}.small{fill:#9198a1}.ours{fill:#2dd4bf}.theirs{fill:#57606a}.spread{stroke:#e6edf3}}
</style>
${text(16, 26, `${title}: ${plot.title}`, 'title')}
${text(16, 45, `${plot.less === false ? 'more' : 'less'} is better; the line on a bar is the spread over the rounds`, 'small')}
${parts.join('\n')}
${text(16, height - 10, `npm run bench ${name} · ${date} · ${cpu} · Node ${node} · Redis ${redis}`, 'small')}
</svg>
`
}

const text = (x, y, words, kind) =>
  `<text x="${round(x)}" y="${round(y)}" class="${kind}">${escaped(words)}</text>`
const round = (value) => Math.round(value * 10) / 10
const escaped = (words) => words.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;')

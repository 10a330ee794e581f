import { stripVTControlCharacters, styleText } from 'node:util'

export interface Column<Row> {
  readonly title: string
  readonly right?: true
  /** Left out first where the line is too short: the highest number. */
  readonly optional?: number
  readonly color?: (row: Row) => 'green' | 'yellow' | 'red' | 'gray' | undefined
  text(row: Row): string
}

const GAP = '  '

/** Aligned columns within `width`; the least important ones are left out, the first is cut. */
export function table<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  { width, colors }: { width: number; colors: boolean },
): string[] {
  let shown = [...columns]
  const widthOf = (column: Column<Row>): number =>
    Math.max(column.title.length, ...rows.map((row) => column.text(row).length))
  const total = (): number => shown.reduce((sum, column) => sum + widthOf(column) + GAP.length, -GAP.length)
  while (total() > width) {
    const least = shown.reduce<Column<Row> | undefined>(
      (found, column) => ((column.optional ?? 0) > (found?.optional ?? 0) ? column : found),
      undefined,
    )
    if (!least) break
    shown = shown.filter((column) => column !== least)
  }
  const [first] = shown
  const over = Math.max(0, total() - width)
  const widths = shown.map((column) =>
    column === first ? Math.max(6, widthOf(column) - over) : widthOf(column),
  )
  const line = (cells: readonly string[], paint: (text: string, index: number) => string): string =>
    cells
      .map((cell, index) => {
        const size = widths[index] as number
        const cut = cell.length > size ? `${cell.slice(0, size - 1)}…` : cell
        return paint(shown[index]?.right ? cut.padStart(size) : cut.padEnd(size), index)
      })
      .join(GAP)
      .trimEnd()
  const head = line(
    shown.map(({ title }) => title),
    (text) => (colors ? styleText('bold', text) : text),
  )
  const body = rows.map((row) =>
    line(
      shown.map((column) => column.text(row)),
      (text, index) => {
        const color = colors ? shown[index]?.color?.(row) : undefined
        return color ? styleText(color, text) : text
      },
    ),
  )
  return [head, ...body]
}

/** Of the terminal that reads this; a pipe has no width, and gets everything. */
export function screen(stream: NodeJS.WriteStream = process.stdout): { width: number; colors: boolean } {
  const colors = stream.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== 'dumb'
  return { width: stream.isTTY ? stream.columns : Number(process.env.COLUMNS) || 1_000, colors }
}

/** What an app has named itself cannot move the cursor. */
export function plain(text: string): string {
  return stripVTControlCharacters(text).replace(/\p{Cc}/gu, '')
}

export function duration(ms: number | undefined): string {
  if (ms === undefined) return '-'
  const s = Math.floor(ms / 1_000)
  if (s < 60) return `${s}s`
  if (s < 3_600) return `${Math.floor(s / 60)}m`
  if (s < 48 * 3_600) return `${Math.floor(s / 3_600)}h`
  return `${Math.floor(s / 86_400)}D`
}

export function size(bytes: number | undefined): string {
  if (bytes === undefined) return '-'
  const mb = bytes / 1_048_576
  return mb < 1_000 ? `${mb.toFixed(mb < 10 ? 1 : 0)}mb` : `${(mb / 1_024).toFixed(1)}gb`
}

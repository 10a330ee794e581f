import { TICK_MS } from './stream.js'

const COLUMNS = 100
const HUES = 6
/** A slot that stays empty this long has been scaled away. */
const FORGET_MS = 20_000

const box = document.querySelector('#rows')
const failures = document.querySelector('#failures .lane')
const calm = matchMedia('(prefers-reduced-motion: reduce)')

/** By machine and index: a worker that takes a dead one's place takes its row. */
const rows = new Map()
let column = 0

export const slotOf = ({ machine, index }) => `${machine} ${index}`

export function createRows({ onKill }) {
  return {
    /** Marks who is there and who is not. */
    show(workers) {
      for (const worker of workers) {
        const row = rowOf(worker, onKill)
        row.here = true
        if (row.worker.pid !== worker.pid) replace(row, worker)
      }
      const here = new Set(workers.map(slotOf))
      for (const [slot, row] of rows) if (!here.has(slot)) vacate(slot, row)
    },
    tick(next) {
      column = next
      for (const { lane } of rows.values()) advance(lane)
      advance(failures)
    },
    /** One dot for one request, at the time of its sending. */
    dot({ ok, body, status, error, column: at }) {
      const lane = ok ? rowOf(body.worker, onKill).lane : failures
      const dot = document.createElement('i')
      dot.className = ok ? 'ok' : 'bad'
      if (!ok) dot.title = status ? `${status} ${body.error ?? ''}` : (error ?? 'no answer')
      lane.children[lane.children.length - 1 - (column - at)]?.append(dot)
    },
    mark,
    get slots() {
      return [...rows.values()].filter((row) => row.here).map((row) => row.worker)
    },
  }
}

/** The number of a worker in its colour. */
export function mark(worker, className = '') {
  const element = document.createElement('span')
  const hue = [...rows.keys()].indexOf(slotOf(worker))
  element.className = `mark hue-${Math.max(0, hue) % HUES} ${className}`
  element.textContent = worker.index
  element.title = `worker ${worker.index}, pid ${worker.pid}, ${worker.machine}`
  return element
}

function rowOf(worker, onKill) {
  const slot = slotOf(worker)
  const known = rows.get(slot)
  if (known) return known
  const element = document.createElement('div')
  element.innerHTML =
    '<div class="who"><span class="mark"></span><small></small></div><div class="lane" aria-hidden="true"></div><button type="button">Kill</button>'
  const [who, lane, button] = element.children
  const row = { element, who, lane, button, worker, here: true }
  button.addEventListener('click', () => onKill(row.worker))
  rows.set(slot, row)
  for (let i = 0; i < COLUMNS; i++) lane.append(document.createElement('span'))
  arrange()
  name(row, worker)
  return row
}

/** Sorted, with a heading per machine; colours follow the order. */
function arrange() {
  const sorted = [...rows].sort(
    ([, { worker: a }], [, { worker: b }]) => a.machine.localeCompare(b.machine) || a.index - b.index,
  )
  rows.clear()
  for (const [slot, row] of sorted) rows.set(slot, row)
  const elements = []
  let machine
  let hue = 0
  for (const row of rows.values()) {
    if (row.worker.machine !== machine) {
      machine = row.worker.machine
      const heading = document.createElement('p')
      heading.className = 'machine'
      heading.textContent = `machine ${machine}`
      elements.push(heading)
    }
    row.element.className = `row hue-${hue % HUES} ${row.here ? '' : 'gone'}`
    row.who.firstChild.className = `mark hue-${hue++ % HUES}`
    elements.push(row.element)
  }
  box.replaceChildren(...elements)
}

function name(row, worker) {
  row.worker = worker
  row.who.firstChild.textContent = worker.index
  row.who.lastChild.textContent = `pid ${worker.pid}`
  row.button.setAttribute('aria-label', `Kill worker ${worker.index}, pid ${worker.pid}`)
  row.button.disabled = false
  row.element.classList.remove('gone')
}

function replace(row, worker) {
  name(row, worker)
  row.lane.lastChild.classList.add('new')
}

function vacate(slot, row) {
  if (!row.here) return
  row.here = false
  row.element.classList.add('gone')
  row.who.lastChild.textContent = 'restarting…'
  row.button.disabled = true
  setTimeout(() => {
    if (row.here) return
    rows.delete(slot)
    arrange()
  }, FORGET_MS)
}

function advance(lane) {
  lane.firstChild?.remove()
  while (lane.children.length < COLUMNS) lane.append(document.createElement('span'))
  if (calm.matches) return
  const pitch = lane.lastChild.offsetWidth
  lane.animate([{ transform: `translateX(${pitch}px)` }, { transform: 'none' }], TICK_MS)
}

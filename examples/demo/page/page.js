import { createRows, mark, slotOf } from './rows.js'
import { ask, startStream } from './stream.js'

const $ = (id) => document.getElementById(id)
const say = (id, ...parts) => $(id).replaceChildren(...parts)
const seconds = (ms) => `${(ms / 1_000).toFixed(1)} s`
const plural = (n, one, many = `${one}s`) => `${n.toLocaleString('en')} ${n === 1 ? one : many}`

const rows = createRows({ onKill: (worker) => kill(worker) })
const total = { answered: 0, failed: 0 }

startStream({
  onTick: rows.tick,
  onReply(reply) {
    total[reply.ok ? 'answered' : 'failed']++
    $('answered').textContent = total.answered.toLocaleString('en')
    $('failed').textContent = total.failed.toLocaleString('en')
    $('failed').classList.toggle('some', total.failed > 0)
    rows.dot(reply)
    if (reply.path === '/api/session') counted(reply)
    else valueRead(reply)
  },
})

// Session

const session = { highest: 0, wentBack: 0, counters: new Set() }

function counted({ ok, body, status }) {
  if (body.code === 'ERR_AS_ONE_REDIS_UNAVAILABLE') redisSeen(false)
  if (!ok) {
    say('session-said', `${status || 'No answer'}. The session is kept, and goes on from ${session.highest}.`)
    return
  }
  // Counts are asked for one after the other, so each must be higher than the one before it.
  if (body.count <= session.highest) session.wentBack++
  session.highest = body.count
  redisSeen(true)
  session.counters.add(`${body.worker.machine} ${body.worker.pid}`)
  $('count').textContent = body.count.toLocaleString('en')
  const item = document.createElement('li')
  item.append(mark(body.worker), body.count.toLocaleString('en'))
  $('history').prepend(item)
  while ($('history').children.length > 8) $('history').lastChild.remove()
  const back = session.wentBack
    ? `It has gone back ${plural(session.wentBack, 'time')}!`
    : 'It has never gone back.'
  say(
    'session-said',
    `Counted by ${plural(session.counters.size, 'process', 'processes')}, last by `,
    mark(body.worker),
    `. ${back}`,
  )
}

// Rate limit

const PERIODS = { '1m': 'minute', '1h': 'hour' }

async function showBudget() {
  const { ok, body } = await ask('GET', '/api/budget')
  if (!ok || document.hidden) return
  $('left').textContent = body.remaining
  $('limit').textContent = body.limit
  $('bar').style.setProperty('--share', body.remaining / body.limit)
  $('bar').classList.toggle('low', body.remaining === 0)
  $('budget-note').textContent =
    body.source === 'redis'
      ? `${body.limit} a ${PERIODS[body.per] ?? body.per} for you, whichever worker you get.`
      : 'Redis does not answer: until it does, each worker counts its share for itself.'
}

async function spend(times) {
  const replies = await Promise.all(Array.from({ length: times }, () => ask('POST', '/api/budget')))
  const admitted = replies.filter((reply) => reply.ok)
  const refused = replies.filter((reply) => reply.status === 429).length
  const others = times - admitted.length - refused
  const by = new Map(admitted.map(({ body }) => [slotOf(body.worker), body.worker]))
  const parts = [`${admitted.length} admitted`]
  if (by.size > 0)
    parts.push(' by ', ...[...by.values()].sort((a, b) => a.index - b.index).map((worker) => mark(worker)))
  if (refused > 0) parts.push(` ${refused} refused with 429`)
  if (others > 0) parts.push(`, ${others} without a decision`)
  say('budget-said', ...parts)
  await showBudget()
}

let spending = Promise.resolve()
for (const [id, times] of [
  ['spend-1', 1],
  ['spend-20', 20],
]) {
  $(id).addEventListener('click', () => {
    spending = spending.then(() => spend(times))
  })
}
setInterval(() => document.hidden || showBudget(), 2_000)
showBudget()

// Cache

const cache = { reads: 0, begun: 0, id: undefined, known: new Map() }

function valueRead({ ok, body, begun }) {
  if (!ok) return
  cache.reads++
  const { value, worker } = body
  cache.known.set(slotOf(worker), value.id)
  if (begun >= cache.begun) {
    cache.begun = begun
    showValue(value)
  }
  const here = rows.slots
  $('seen').replaceChildren(
    ...here.map((each) => mark(each, cache.known.get(slotOf(each)) === cache.id ? '' : 'not')),
  )
}

function showValue(value) {
  cache.id = value.id
  $('value').textContent = value.text
  const who = value.how === 'loaded' ? 'Loaded by ' : 'Written by '
  say(
    'value-said',
    who,
    mark(value.worker),
    value.runs === undefined
      ? '. How often loaders have run is not known while Redis is away.'
      : `. The loader has run ${plural(value.runs, 'time')} in the whole cluster, for ${plural(cache.reads, 'read')} of this page.`,
  )
}

$('write').addEventListener('submit', async (event) => {
  event.preventDefault()
  const text = $('write-text').value.trim() || 'hello'
  const { ok, body, status } = await ask('POST', '/api/value', { text })
  $('write-text').value = ''
  if (ok) say('cache-said', 'Written through ', mark(body.worker), '. All others drop what they hold.')
  else say('cache-said', notDone(status))
})
$('invalidate').addEventListener('click', async () => {
  const { ok, body, status } = await ask('DELETE', '/api/value')
  if (ok) say('cache-said', 'Invalidated through ', mark(body.worker), '. One worker loads it anew, for all.')
  else say('cache-said', notDone(status))
})
const notDone = (status) =>
  `Not done: ${status || 'no answer'}. A write that Redis has not confirmed is not claimed.`

// Workers: kill and reload

let work // what the buttons have begun, told until it is done

async function kill(worker) {
  const { ok, body } = await ask('POST', '/api/kill', worker ? { id: worker.id } : {})
  if (!ok) say('workers-said', 'Nobody answered that. Try again.')
  else watchKill(worker ?? body.worker)
}

let lastKilled

/** Told of by the answer and by the event stream, whichever comes first. */
function watchKill({ id, index, pid, machine }) {
  if (lastKilled === id) return
  lastKilled = id
  work = { at: performance.now(), before: { ...total }, tell }
  say('workers-said', `Worker ${index} gets SIGKILL…`)
  let gone = false
  function tell(workers) {
    const successor = workers.find(
      (worker) => worker.machine === machine && worker.index === index && worker.id !== id,
    )
    if (!gone && !workers.some((worker) => worker.id === id)) {
      gone = true
      say('workers-said', `Worker ${index} (pid ${pid}) is dead, the others go on.`)
    }
    if (!gone || !successor) return
    say('workers-said', `Worker ${index} is back as pid ${successor.pid}, ${since(work)}.`)
    work = undefined
  }
}

async function reload() {
  const before = new Set(rows.slots.map((worker) => worker.id))
  const { ok } = await ask('POST', '/api/reload')
  if (!ok) {
    say('workers-said', 'Nobody answered that. Try again.')
    return
  }
  say('workers-said', 'Starting new workers; the old ones finish what they have begun…')
  work = {
    at: performance.now(),
    before: { ...total },
    tell(workers) {
      const old = workers.filter((worker) => before.has(worker.id)).length
      if (old > 0) say('workers-said', `${before.size - old} of ${before.size} replaced…`)
      else {
        say('workers-said', `All ${workers.length} workers are new, ${since(work)}.`)
        work = undefined
      }
    },
  }
}

function since({ at, before }) {
  const answered = total.answered - before.answered
  const failed = total.failed - before.failed
  return `after ${seconds(performance.now() - at)}: ${answered} requests answered meanwhile, ${failed} failed`
}

$('kill').addEventListener('click', () => kill())
$('reload').addEventListener('click', reload)

// Live: who is there, whether Redis is, what is broadcast

const feed = $('feed')
const messages = new Map()
let busState = 'connecting'

function listen() {
  const events = new EventSource('/api/events')
  const on = (name, handler) => events.addEventListener(name, ({ data }) => handler(JSON.parse(data)))
  on('hello', ({ workers, redis }) => {
    showWorkers(workers)
    showBus(redis)
  })
  on('workers', showWorkers)
  on('redis', ({ redis }) => showBus(redis))
  on('kill', ({ id }) => {
    const worker = rows.slots.find((each) => each.id === id)
    if (worker) watchKill(worker)
  })
  on('message', ({ id, text, worker }) => {
    const marks = document.createElement('span')
    marks.className = 'heard'
    messages.set(id, { marks, heard: new Map(), expected: rows.slots.length })
    entry(text, 'said by ', mark(worker), ' heard by ', marks)
  })
  on('heard', ({ id, worker }) => heard(id, worker))
  on('cache', ({ what, worker, runs }) => {
    const done =
      { written: 'wrote the value', invalidated: 'invalidated the value' }[what] ??
      `ran the loader, run ${runs} in the whole cluster`
    entry('', mark(worker), ` ${done}`)
  })
  return events
}

/** A browser allows six connections to a host, over all tabs: one that nobody looks at holds none. */
let events = listen()
document.addEventListener('visibilitychange', () => {
  events.close()
  if (!document.hidden) events = listen()
})

function showWorkers(workers) {
  rows.show(workers)
  work?.tell(workers)
  showStrip()
}

function heard(id, worker) {
  const message = messages.get(id)
  if (!message) return
  const key = slotOf(worker)
  message.heard.set(key, { worker, times: (message.heard.get(key)?.times ?? 0) + 1 })
  const marks = [...message.heard.values()].sort((a, b) => slotOf(a.worker).localeCompare(slotOf(b.worker)))
  message.marks.replaceChildren(
    ...marks.flatMap(({ worker, times }) => (times > 1 ? [mark(worker), `${times} times!`] : [mark(worker)])),
  )
}

function entry(text, ...parts) {
  feed.querySelector('.empty')?.remove()
  const item = document.createElement('li')
  const time = document.createElement('time')
  time.textContent = new Date().toLocaleTimeString('en-GB')
  const words = document.createElement('span')
  words.className = 'text'
  words.textContent = text
  item.append(time, ...(text ? [words] : []), ...parts)
  feed.prepend(item)
  while (feed.children.length > 40) feed.lastChild.remove()
}

$('say').addEventListener('submit', async (event) => {
  event.preventDefault()
  const text = $('say-text').value.trim() || 'hello'
  $('say-text').value = ''
  await ask('POST', '/api/broadcast', { text })
})

// Redis: what the bus says of it, and what the session has met

let awaySince
let back

function showBus(state) {
  busState = state
  if (state === 'away') redisSeen(false)
  showStrip()
}

function redisSeen(isThere) {
  if (!isThere) awaySince ??= performance.now()
  else if (awaySince !== undefined && busState !== 'away') {
    back = { after: performance.now() - awaySince, until: performance.now() + 10_000 }
    awaySince = undefined
    setTimeout(showStrip, 10_000)
  }
  showStrip()
}

function showStrip() {
  const workers = rows.slots
  const machines = new Set(workers.map((worker) => worker.machine)).size
  const state = awaySince === undefined ? busState : 'away'
  const there = `${plural(workers.length, 'worker')} on ${plural(machines, 'machine')}.`
  const words = {
    connecting: 'Connecting…',
    away: `Redis is away: sessions answer 503 instead of forgetting anybody, broadcasts stay on their machine. All of it recovers by itself.`,
    ok:
      back && back.until > performance.now()
        ? `Redis is back after ${seconds(back.after)}, and the session goes on at ${session.highest}.`
        : `${there} Redis answers.`,
  }[state]
  if ($('redis').dataset.state === state && $('redis-text').textContent === words) return
  $('redis').dataset.state = state
  $('redis-text').textContent = words
}

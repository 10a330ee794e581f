// What the page sees live: who is there, whether Redis is, and every broadcast with each worker that has heard it.
import { broadcast, members, onBus, subscribe } from 'as-one'
import { me } from './me.js'

/** Pages connected to this worker. */
const pages = new Set()
let redis = 'connecting'
let since = Date.now()

onBus('restored', () => setRedis('ok')) // follows a 'degraded'; at the start it is the first subscription that says so
onBus('degraded', () => setRedis('away'))
onBus('join', () => send('workers', workers()))
onBus('leave', () => send('workers', workers()))

// Each worker tells all others that it has heard the message: so one page, connected to one worker, knows of all.
const { ready } = subscribe('demo.message', (message, { at }) => {
  send('message', message)
  broadcast('demo.heard', { id: message.id, worker: me, ms: Math.max(0, Date.now() - at) })
})
ready.then(
  () => setRedis('ok'),
  () => setRedis('away'),
)
subscribe('demo.heard', (heard) => send('heard', heard))
subscribe('demo.cache', (change) => send('cache', change))
subscribe('demo.kill', (kill) => send('kill', kill))

export function status() {
  return { worker: me, redis, since, workers: workers() }
}

/** Server-sent events. A draining worker ends the stream, a killed one breaks it; EventSource comes back to another. */
export function events(_req, res) {
  res.set({ 'Content-Type': 'text/event-stream', 'X-Accel-Buffering': 'no' })
  res.write('retry: 400\n\n')
  pages.add(res)
  const alive = setInterval(() => res.write(':\n\n'), 15_000).unref() // a page that has gone is noticed
  res.once('close', () => {
    clearInterval(alive)
    pages.delete(res)
  })
  sendTo(res, 'hello', status())
}

function setRedis(now) {
  if (redis !== now) since = Date.now()
  redis = now
  send('redis', { redis, since })
}

function workers() {
  return members().map(({ id, index, pid, machine }) => ({ id, index: index ?? 0, pid, machine }))
}

function send(event, data) {
  for (const page of pages) sendTo(page, event, data)
}

function sendTo(page, event, data) {
  if (page.writableEnded || page.writableLength > 1 << 20) return // drained, or nobody reads it
  page.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)
}

// An ordinary Express app. Nothing in it knows how many workers or machines there are.
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { broadcast, rateLimit, rateLimiter, sharedCache, sharedSession } from 'as-one'
import { ipKey } from 'as-one/rate-limit'
import express from 'express'
import { askToDie, countInFlight, reloadAll } from './lifecycle.js'
import { events, status } from './live.js'
import { me } from './me.js'

const app = express()
app.disable('x-powered-by')
app.set('trust proxy', Number(process.env.TRUST_PROXY ?? 0)) // how many proxies stand before it: the limit is per visitor

app.use((req, res, next) => {
  res.set({
    'Content-Security-Policy':
      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
  })
  // Buttons that kill are for this page, not for others that a visitor has open.
  const site = req.get('sec-fetch-site')
  if (req.method !== 'GET' && site && site !== 'same-origin') res.sendStatus(403)
  else next()
})
app.use(express.static(fileURLToPath(new URL('page', import.meta.url)), { cacheControl: false }))
app.use('/api', (_req, res, next) => {
  res.set('Cache-Control', 'no-store')
  next()
})

// What the page needs also while Redis is away: before anything that asks Redis.
app.get('/api/events', events)
app.use(countInFlight)
app.get('/api/status', (_req, res) => res.json(status()))
app.use(express.json({ limit: '4kb' }))

// Sessions. One request of the page at a time: `+= 1` reads, then writes, as with any session store.
app.get('/api/session', sharedSession({ secret: process.env.SESSION_SECRET ?? 'demo' }), (req, res) => {
  req.session.count = (req.session.count ?? 0) + 1
  res.json({ worker: me, count: req.session.count })
})

// Rate limit. One budget for all workers.
const budget = { name: 'demo', limit: 50, per: process.env.DEMO_PER ?? '1m' }
const limiter = rateLimiter(budget)
app.post('/api/budget', rateLimit(budget), (req, res) => res.json({ worker: me, ...left(req.rateLimit) }))
app.get('/api/budget', async (req, res) =>
  res.json({ worker: me, ...left(await limiter.peek(ipKey(req.ip))) }),
)
const left = ({ remaining, source }) => ({ limit: budget.limit, per: budget.per, remaining, source })

// Cache. The loader is slow, and runs once for all workers.
const cache = sharedCache({ ttl: '10m' })
app.get('/api/value', async (_req, res) => {
  res.json({ worker: me, value: await cache.getOrSet('value', load) })
})
app.post('/api/value', async (req, res) => {
  const value = {
    id: newId(),
    text: textOf(req.body),
    how: 'written',
    runs: await cache.get('runs'),
    worker: me,
  }
  await cache.set('value', value)
  broadcast('demo.cache', { what: 'written', worker: me })
  res.json({ worker: me, value })
})
app.delete('/api/value', async (_req, res) => {
  await cache.delete('value')
  broadcast('demo.cache', { what: 'invalidated', worker: me })
  res.json({ worker: me })
})

async function load() {
  await sleep(300) // a slow database
  const runs = await countRun().catch(() => undefined)
  if (runs) broadcast('demo.cache', { what: 'loaded', runs, worker: me })
  return { id: newId(), text: new Date().toLocaleTimeString('en-GB'), how: 'loaded', runs, worker: me }
}

async function countRun() {
  if (status().redis === 'away') return undefined // nobody knows of the others then
  const runs = ((await cache.get('runs')) ?? 0) + 1 // nobody else does the same: one loader at a time
  await cache.set('runs', runs, { ttl: '7d' })
  return runs
}

// Broadcast. Every worker of every machine hears it; see live.js.
app.post('/api/broadcast', (req, res) => {
  const id = newId()
  broadcast('demo.message', { id, text: textOf(req.body), worker: me })
  res.json({ worker: me, id })
})

app.post('/api/kill', (req, res) => {
  const id = typeof req.body?.id === 'string' ? req.body.id : me.id
  askToDie(id)
  res.json({ worker: me, id })
})
app.post('/api/reload', (_req, res) => {
  reloadAll()
  res.json({ worker: me })
})

// Four parameters, so Express takes it for the error handler. 503: Redis is away.
app.use((error, _req, res, _next) => {
  const status = error.code === 'ERR_AS_ONE_REDIS_UNAVAILABLE' ? 503 : (error.status ?? 500)
  if (status === 500) console.error(error)
  res.status(status).json({ worker: me, error: error.message, code: error.code })
})

const newId = () => Math.random().toString(36).slice(2, 10)
const textOf = (body) => String(body?.text ?? '').slice(0, 80) || 'hello'

export default app

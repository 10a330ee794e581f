// Sessions: put `sharedSession` where `express-session` stood, and any worker may answer. Then:
//
//   node examples/sessions/server.js
//   curl -c jar -b jar localhost:3000            a few times: other workers, one counter
//   curl -c jar -b jar -X POST localhost:3000/login -d name=Ada
import { runCluster, sharedSession } from 'as-one'
import express from 'express'

const app = express()
const sessions = sharedSession({
  secret: process.env.SESSION_SECRET ?? 'only for this example',
  cookie: { maxAge: '7d' },
})
app.use(sessions)
app.use(express.urlencoded())

app.get('/', (req, res) => {
  req.session.views = (req.session.views ?? 0) + 1
  const { views, name } = req.session
  res.json({ worker: Number(process.env.AS_ONE_WORKER), pid: process.pid, views, name })
})

// A new id at login, so that one that was known before is worth nothing; everything else stays.
app.post('/login', async (req, res) => {
  const name = String(req.body?.name ?? 'nobody')
  await sessions.login(req, name)
  req.session.name = name
  res.redirect(303, '/')
})

// Everywhere else: all sessions of this user but this one.
app.post('/logout-others', async (req, res) => {
  if (!req.session.name) return res.sendStatus(401)
  res.json({ ended: await sessions.forUser(req.session.name).destroyAll({ except: req }) })
})

app.post('/logout', (req, res, next) => {
  req.session.destroy((error) => (error ? next(error) : res.redirect(303, '/')))
})

const cluster = await runCluster(app)

if (cluster.role === 'primary') {
  const { workers, redis } = cluster.status()
  console.log(`${workers.length} workers on http://localhost:${process.env.PORT ?? 3000}, Redis: ${redis}`)
}

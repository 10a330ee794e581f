import express from 'express'

export const SECRET = 'only for this benchmark'

/** `/changed` writes to the session, `/read` only looks at it. */
export function appWith(session) {
  const app = express()
  app.use(session)
  app.get('/changed', (req, res) => {
    req.session.views = (req.session.views ?? 0) + 1
    res.json({ views: req.session.views })
  })
  app.get('/read', (req, res) => {
    res.json({ views: req.session.views ?? 0 })
  })
  return app
}

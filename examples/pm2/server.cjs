// An app as it was written for PM2: it knows nothing of as-one.
const express = require('express')

const app = express()
app.get('/', (_req, res) => {
  res.json({
    pid: process.pid,
    worker: Number(process.env.NODE_APP_INSTANCE),
    env: process.env.NODE_ENV,
    greeting: process.env.GREETING,
  })
})
app.get('/slow', (_req, res) => setTimeout(() => res.send('done'), 100))

const port = process.env.PORT || 3000
app.listen(port, () => console.log(`http://localhost:${port}`))

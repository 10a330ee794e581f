// What all contenders of the suite `request` have in common.
import express from 'express'

export const SESSIONS = 200
export const CLIENTS = 200
export const KEYS = 500
/** Never reached. */
export const LIMIT = 1_000_000
export const WINDOW_SECONDS = 60
export const SECRET = 'only for this benchmark'

/** What the database would say. */
export const loadProduct = async (id) => ({
  id,
  name: `Product ${id}`,
  price: 4200 + Number(id),
  tags: ['blue', 'cotton', 'made to be compared'],
  stock: { berlin: 3, lisbon: 12, oslo: 0 },
})

/** `GET /products/:id` changes the session, unless the row is about sessions that are only read. */
export function appWith(middlewares, getProduct) {
  const app = express()
  app.set('trust proxy', 'loopback')
  app.get('/bare/:id', async (req, res) => {
    res.json({ views: 1, product: await loadProduct(req.params.id) })
  })
  for (const middleware of middlewares) app.use(middleware)
  app.get('/products/:id', async (req, res) => {
    req.session.views = (req.session.views ?? 0) + 1
    res.json({ views: req.session.views, product: await getProduct(req.params.id) })
  })
  app.get('/seen/:id', async (req, res) => {
    res.json({ views: req.session.views ?? 0, product: await getProduct(req.params.id) })
  })
  return app
}

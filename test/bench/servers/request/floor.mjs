// The least that does the work at all, written by hand for this one route: a session as one string, last writer wins,
// a fixed window, a Map that hears of nothing. No deadline, no outage, no destroy, no expiry but Redis' own.
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { Redis } from 'ioredis'
import { redisOptions } from '../redis-options.mjs'
import { appWith, LIMIT, loadProduct, SECRET, WINDOW_SECONDS } from './workload.mjs'

const client = new Redis(redisOptions)
client.defineCommand('hit', {
  numberOfKeys: 1,
  lua: `local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return n`,
})
const products = new Map()
const sign = (sid) => createHmac('sha256', SECRET).update(sid).digest('base64url')

function idOf(header) {
  const match = /(?:^|; )sid=([^.;]+)\.([^;]+)/.exec(header ?? '')
  if (!match) return undefined
  const wanted = Buffer.from(sign(match[1]))
  const given = Buffer.from(match[2])
  return given.length === wanted.length && timingSafeEqual(given, wanted) ? match[1] : undefined
}

function state(req, res, next) {
  const known = idOf(req.headers.cookie)
  const sid = known ?? randomBytes(18).toString('base64url')
  const hit = client.hit(`limit:${req.ip}`, WINDOW_SECONDS)
  const load = known ? client.get(`sess:${sid}`) : Promise.resolve(null)
  Promise.all([hit, load]).then(([count, stored]) => {
    if (count > LIMIT) return res.status(429).end()
    const before = stored ?? '{}'
    req.session = JSON.parse(before)
    const { end } = res
    res.end = (...args) => {
      const after = JSON.stringify(req.session)
      if (after === before) return end.apply(res, args)
      if (!known) res.setHeader('Set-Cookie', `sid=${sid}.${sign(sid)}; Path=/; HttpOnly`)
      client.set(`sess:${sid}`, after, 'EX', 86_400).then(() => end.apply(res, args), next)
      return res
    }
    next()
  }, next)
}

async function getProduct(id) {
  const known = products.get(id)
  if (known) return known
  const stored = await client.get(`product:${id}`)
  const product = stored ? JSON.parse(stored) : await loadProduct(id)
  if (!stored) await client.set(`product:${id}`, JSON.stringify(product), 'EX', 300)
  products.set(id, product)
  return product
}

export default appWith([state], getProduct)

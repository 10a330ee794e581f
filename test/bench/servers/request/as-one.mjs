import { rateLimit, sharedCache, sharedSession } from 'as-one'
import { appWith, LIMIT, loadProduct, SECRET, WINDOW_SECONDS } from './workload.mjs'

const cache = sharedCache({ ttl: '5m' })

export default appWith(
  [
    rateLimit({ limit: LIMIT, per: WINDOW_SECONDS * 1_000, lease: process.env.BENCH_LEASE === '1' }),
    sharedSession({ secret: SECRET }),
  ],
  (id) => cache.getOrSet(`product:${id}`, () => loadProduct(id)),
)

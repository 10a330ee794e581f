// A worker without a primary: it has its own connections.
import { work } from './worker.mjs'

const settings = JSON.parse(process.env.RIG)
await work(settings, settings.redis)
process.exit(0)

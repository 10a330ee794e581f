// A worker without a primary: it has its own connections.
import { work } from './worker.mjs'

const settings = JSON.parse(process.env.RIG)
/** What would have ended the process, and with it all that it has seen: counted, and told. */
const fatal = []
process.on('uncaughtException', (error) => fatal.push(String(error)))
process.on('unhandledRejection', (error) => fatal.push(String(error)))
await work(settings, settings.redis, fatal)
process.exit(0)

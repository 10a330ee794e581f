import { listen } from './app.mjs'

listen(Number(process.env.PORT))

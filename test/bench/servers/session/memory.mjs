// Not shared by anybody: right with one worker only.
import expressSession from 'express-session'
import { appWith, SECRET } from './app.mjs'

const store = new expressSession.MemoryStore()

export default appWith(expressSession({ store, secret: SECRET, resave: false, saveUninitialized: false }))

import { sharedSession } from 'as-one'
import { appWith, SECRET } from './app.mjs'

export default appWith(sharedSession({ secret: SECRET }))

import { appWith } from './app.mjs'

export default appWith((req, _res, next) => {
  req.session = {}
  next()
})

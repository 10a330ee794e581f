// Express 5 with the same route and nothing shared: what the others add is counted from here.
import { appWith, loadProduct } from './workload.mjs'

const session = (req, _res, next) => {
  req.session = { views: 0 }
  next()
}

export default appWith([session], loadProduct)

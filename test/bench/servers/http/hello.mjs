const body = JSON.stringify({ hello: 'world' })

export default function hello(_req, res) {
  res.setHeader('content-type', 'application/json')
  res.setHeader('content-length', body.length)
  res.end(body)
}

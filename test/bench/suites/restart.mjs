import { reloadSubject, reloads } from '../harness/restart-subject.mjs'

const contender = (launcher) => reloadSubject({ launcher, reload: reloads[launcher] })

export default {
  title: 'Reload under load',
  about: `2 workers replaced one after the other while 16 keep-alive clients and 8 with a new connection per request
ask without pause; each answer takes 20 ms. \`failed\` are requests without a complete answer, per reload.
\`node:cluster\` forks the new worker, waits until it listens, then calls \`disconnect()\` on the old one and
kills it after 2 s; pm2 is \`pm2 reload\` of the same app, without code for it in the app.`,
  needs: { pm2: ['pm2'] },
  libraries: ['pm2'],
  plan: { sittings: 2, mostSittings: 2, rounds: 3 },
  plot: { metric: 'failed', title: 'Failed requests per reload', unit: '' },
  columns: [
    'rate',
    { key: 'failed', label: 'failed', print: (n) => n.toFixed(1) },
    { key: 'reloadMs', label: 'reload, ms', print: (ms) => ms.toFixed(0) },
  ],
  cases: [
    {
      name: 'reload',
      contenders: {
        'as-one': contender('as-one'),
        'node:cluster': contender('node:cluster'),
        pm2: contender('pm2'),
      },
    },
  ],
  bars: [
    { case: 'reload', what: 'failed requests per reload', value: (round) => round['as-one'].failed, max: 0 },
  ],
}

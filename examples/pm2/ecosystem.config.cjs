// Written for PM2; `as-one start ecosystem.config.cjs --env production` takes it as it is.
module.exports = {
  apps: [
    {
      name: 'web',
      script: './server.cjs',
      instances: 'max',
      exec_mode: 'cluster',
      watch: false,
      max_memory_restart: '300M',
      kill_timeout: 5000,
      listen_timeout: 8000,
      env: { NODE_ENV: 'development', GREETING: 'hello' },
      env_production: { NODE_ENV: 'production', GREETING: 'good day' },
    },
    {
      name: 'queue',
      script: './queue.cjs',
      exec_mode: 'fork',
      autorestart: true,
      exp_backoff_restart_delay: 100,
      log_date_format: 'YYYY-MM-DD HH:mm:ss.SSS',
    },
  ],
}

import { expect, onTestFinished, test, vi } from 'vitest'
import { createSession } from '../../src/session/index.ts'
import { get } from '../helpers/http.ts'
import { sharedRedis, testNamespace } from '../helpers/redis.ts'
import { listener, serve, worker } from './app.ts'

test('a secure cookie on a connection without TLS is withheld, and one warning says what to do', async () => {
  const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
  onTestFinished(() => warn.mockRestore())
  const ctx = worker(sharedRedis().url, testNamespace())
  const url = (proxy?: boolean): Promise<string> => {
    const options = { secret: 'x', cookie: { secure: true }, ...(proxy !== undefined && { proxy }) }
    return serve(
      listener(createSession(ctx, options), (req, res) => {
        req.session.user = 'Ada'
        res.end()
      }),
    )
  }
  const headers = { 'x-forwarded-proto': 'https' }
  const untold = await url()
  for (let i = 0; i < 3; i++) expect((await get(untold, { headers })).headers['set-cookie']).toBeUndefined()
  expect(warn).toHaveBeenCalledExactlyOnceWith(
    expect.stringMatching(/__Host-sid.*trust proxy.*proxy: true/),
    expect.objectContaining({ code: 'AS_ONE_COOKIE_WITHHELD' }),
  )

  const [cookie] = (await get(await url(true), { headers })).headers['set-cookie'] ?? []
  expect(cookie).toMatch(/^__Host-sid=.*; Secure/)
})

import type { Session } from 'express-session'
import { expect, expectTypeOf, test } from 'vitest'
import { createShared } from '../../src/index.ts'
import { type SessionMiddleware, type SharedSession, sharedSession } from '../../src/session/index.ts'
import { get } from '../helpers/http.ts'
import { testNamespace } from '../helpers/redis.ts'
import { serve } from './app.ts'

interface Shop {
  user: { id: string; admin: boolean }
  cart: string[]
}

test('the fields are those of Data, each may be missing; the methods are those of express-session', () => {
  const sessions = sharedSession<Shop>({ secret: 'keyboard cat' })
  expectTypeOf(sessions).toEqualTypeOf<SessionMiddleware<Shop>>()
  expectTypeOf(sessions.of).returns.toExtend<Session>()
  type Typed = ReturnType<typeof sessions.of>
  expectTypeOf<Typed>().toEqualTypeOf<SharedSession<Shop>>()
  expectTypeOf<Typed['user']>().toEqualTypeOf<Shop['user'] | undefined>()
  expectTypeOf<Typed['cart']>().toEqualTypeOf<string[] | undefined>()
  expectTypeOf<Typed>().not.toHaveProperty('basket')
  expectTypeOf<Typed['save']>().toBeFunction()
})

test('without Data, and from createShared', () => {
  expectTypeOf(sharedSession({ secret: 'x' })).toEqualTypeOf<SessionMiddleware>()
  expectTypeOf<ReturnType<SessionMiddleware['of']>>().not.toHaveProperty('cart')
  const shared = createShared({ redis: 'redis://localhost', namespace: 'types' })
  expectTypeOf(shared.session<Shop>({ secret: 'x' })).toEqualTypeOf<SessionMiddleware<Shop>>()
  // @ts-expect-error Data is an object
  sharedSession<string>({ secret: 'x' })
})

test('of() gives req.session, and says so when there is none', async () => {
  const shared = createShared({ redis: 'redis://127.0.0.1:1', namespace: testNamespace() })
  const sessions = shared.session<Shop>({ secret: 'keyboard cat', cookie: { path: '/shop' } })
  const others = shared.session({ secret: 'keyboard cat' })
  const url = await serve((req, res) =>
    sessions(req, res, () => {
      try {
        const session = sessions.of(req)
        expect(session).toBe((req as unknown as { session: unknown }).session)
        expect(() => others.of(req)).toThrow(/no session of this middleware/)
        res.end(String(session.cart?.length))
      } catch (error) {
        res.end(String((error as { code?: unknown }).code))
      }
    }),
  )
  expect((await get(`${url}/shop`)).body).toBe('undefined')
  expect((await get(`${url}/elsewhere`)).body).toBe('ERR_AS_ONE_SESSION')
  await shared.close()
})

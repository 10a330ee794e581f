import { withDeadline } from '../core/abort.ts'
import { messageOf, SharedStateError } from '../core/errors.ts'
import type { Member } from './members.ts'
import type { MessageMeta } from './receiver.ts'
import { checkTopic } from './topics.ts'

/** Answers a `gather`; what it returns, or resolves to, is the answer. */
export type AnswerHandler<Question = unknown, Answer = unknown> = (
  payload: Question,
  meta: MessageMeta,
) => Answer | Promise<Answer>

/**
 * Why a member has not answered: `timeout`, it `left` (or died) meanwhile, it has no `handle` for the topic
 * (`unsupported`), or that has failed (`error`).
 */
export type MissingReason = 'timeout' | 'left' | 'unsupported' | 'error'

export interface Gathered<Answer> {
  readonly results: readonly { readonly member: Member; readonly value: Answer }[]
  readonly missing: readonly {
    readonly member: Member
    readonly reason: MissingReason
    /** What the handler threw, for `error`. */
    readonly error?: unknown
  }[]
}

export interface GatherOptions {
  /** How long to wait for members that do not answer, in ms. Default 1,000. */
  readonly timeout?: number
  readonly signal?: AbortSignal
}

export interface GatherDeskOptions {
  members(): readonly Member[]
  /** To every other member. */
  ask(topic: string, payload: unknown): void
  answer(member: string, topic: string, payload: unknown): void
}

/** Questions to all members and their answers; both travel as internal messages of the bus. */
export interface GatherDesk {
  handle(topic: string, handler: AnswerHandler): () => void
  gather<Answer>(
    topic: string,
    payload: unknown,
    options: GatherOptions | undefined,
    own: MessageMeta,
  ): Promise<Gathered<Answer>>
  onInternal(topic: string, payload: unknown, meta: MessageMeta): void
  onLeave(member: Member): void
  close(): void
}

interface Question {
  readonly open: Map<string, Member>
  readonly results: { member: Member; value: unknown }[]
  readonly missing: { member: Member; reason: MissingReason; error?: unknown }[]
  settle(): void
}

type Answer = { value: unknown } | { reason: MissingReason; error?: unknown }

const ASK = 'ask'
const ANSWER = 'answer'
const DEFAULT_TIMEOUT_MS = 1_000

export function createGatherDesk({ members, ask, answer }: GatherDeskOptions): GatherDesk {
  const handlers = new Map<string, AnswerHandler>()
  const questions = new Map<number, Question>()
  let lastId = 0

  async function answerOf(topic: unknown, payload: unknown, meta: MessageMeta): Promise<Answer> {
    const handler = typeof topic === 'string' ? handlers.get(topic) : undefined
    if (!handler) return { reason: 'unsupported' }
    try {
      return { value: await handler(payload, meta) }
    } catch (error) {
      return { reason: 'error', error }
    }
  }

  function settleOne(question: Question, member: Member, given: Answer): void {
    if (!question.open.delete(member.id)) return
    if ('value' in given) question.results.push({ member, value: given.value })
    else question.missing.push({ member, ...given })
    if (question.open.size === 0) question.settle()
  }

  async function reply(payload: unknown, meta: MessageMeta): Promise<void> {
    const { id, topic, question } = (payload ?? {}) as Record<string, unknown>
    const given = await answerOf(topic, question, { ...meta, topic: String(topic) })
    try {
      answer(meta.from, ANSWER, { id, ...given })
    } catch (error) {
      // What it returned, or threw, cannot be sent; say so in words.
      const words = new SharedStateError(
        'ERR_AS_ONE_PAYLOAD',
        `the answer cannot be sent: ${messageOf(error)}`,
      )
      answer(meta.from, ANSWER, { id, reason: 'error', error: words })
    }
  }

  return {
    handle(topic, handler) {
      checkTopic(topic)
      if (handlers.has(topic)) {
        throw new SharedStateError(
          'ERR_AS_ONE_OPTIONS',
          `'${topic}' is handled already; a member gives one answer`,
        )
      }
      handlers.set(topic, handler)
      return () => {
        if (handlers.get(topic) === handler) handlers.delete(topic)
      }
    },
    async gather<Value>(
      topic: string,
      payload: unknown,
      { timeout = DEFAULT_TIMEOUT_MS, signal }: GatherOptions = {},
      own: MessageMeta,
    ): Promise<Gathered<Value>> {
      lastId += 1
      const id = lastId
      const open = new Map(members().map((member) => [member.id, member]))
      const question: Question = { open, results: [], missing: [], settle() {} }
      const settled = new Promise<void>((resolve) => {
        question.settle = resolve
      })
      questions.set(id, question)
      try {
        const self = open.get(own.from)
        if (open.size > (self ? 1 : 0)) ask(ASK, { id, topic, question: payload })
        if (self) void answerOf(topic, payload, own).then((given) => settleOne(question, self, given))
        if (open.size > 0) {
          let timer: NodeJS.Timeout | undefined
          const expired = new Promise<void>((resolve) => {
            timer = setTimeout(resolve, timeout)
          })
          try {
            await withDeadline(Promise.race([settled, expired]), undefined, () => new Error(), signal)
          } finally {
            clearTimeout(timer)
          }
        }
        for (const member of open.values()) question.missing.push({ member, reason: 'timeout' })
        return { results: question.results, missing: question.missing } as unknown as Gathered<Value>
      } finally {
        questions.delete(id)
      }
    },
    onInternal(topic, payload, meta) {
      if (topic === ASK) void reply(payload, meta)
      if (topic !== ANSWER) return
      const { id, ...given } = (payload ?? {}) as { id?: unknown } & Answer
      const question = questions.get(id as number)
      const member = question?.open.get(meta.from)
      if (question && member) settleOne(question, member, given as Answer)
    },
    onLeave(member) {
      for (const question of questions.values()) settleOne(question, member, { reason: 'left' })
    },
    close() {
      for (const question of questions.values()) question.settle()
    },
  }
}

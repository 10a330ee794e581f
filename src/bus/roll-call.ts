/** Whoever has not answered by then is frozen, mute or dead: nobody's start waits for them any longer. */
const DEADLINE_MS = 1_000
/** Whoever can write to Redis can ask as often as they like. */
const MAX_QUESTIONS = 1_000

/**
 * A hub that was alone sends nothing to Redis until it has heard of another one. So a newcomer asks, and can be relied
 * on to hear everything only once all have answered; how many there are it learns from Redis' reply to its question.
 */
export interface RollCall {
  /** Connected: returns the question to publish. */
  begin(): string
  /** So many other hubs have got our question; undefined where none of them ever keeps silent. */
  counted(question: string, others: number | undefined): void
  /** Another hub has answered these questions. */
  answered(hub: string, questions: unknown): void
  /** Cut off: those who have answered may have forgotten us by the time we are back. */
  end(): void
  /** All have answered, or the deadline has passed. */
  readonly isOver: boolean
  /** Somebody has not answered: what they have published may be missing. */
  readonly isUnanswered: boolean
  /** Another hub's question, to be answered with the next heartbeat. */
  ask(question: unknown): void
  takeQuestions(): readonly string[]
}

export function createRollCall(hub: string, onOver: () => void): RollCall {
  const questions = new Set<string>()
  const answers = new Set<string>()
  let own: string | undefined
  let calls = 0
  let isOver = false
  let isUnanswered = true
  let expected: number | undefined
  let timer: NodeJS.Timeout | undefined

  function look(): void {
    if (expected === undefined || answers.size < expected) return
    isUnanswered = false
    over()
  }

  function over(): void {
    clearTimeout(timer)
    if (isOver) return
    isOver = true
    onOver()
  }

  function end(): void {
    clearTimeout(timer)
    own = undefined
    isOver = false
    isUnanswered = true
    expected = undefined
    answers.clear()
  }

  return {
    begin() {
      end()
      calls += 1
      own = `${hub} ${calls}`
      timer = setTimeout(over, DEADLINE_MS).unref()
      return own
    },
    counted(question, others = 0) {
      if (question !== own) return
      expected = others
      look()
    },
    answered(from, list) {
      if (own === undefined || !Array.isArray(list) || !list.includes(own)) return
      answers.add(from)
      look()
    },
    end,
    get isOver() {
      return isOver
    },
    get isUnanswered() {
      return isUnanswered
    },
    ask(question) {
      if (typeof question === 'string' && question.length <= 64 && questions.size < MAX_QUESTIONS)
        questions.add(question)
    },
    takeQuestions() {
      const taken = [...questions]
      questions.clear()
      return taken
    },
  }
}

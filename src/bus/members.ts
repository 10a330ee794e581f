/** A process that receives broadcasts. */
export interface Member {
  /** New for every incarnation of a process. */
  readonly id: string
  /** Host name. */
  readonly machine: string
  readonly pid: number
  /** The worker's slot, undefined without our primary. */
  readonly index: number | undefined
  /** True for the process that asks. */
  readonly self: boolean
}

/** A member as hubs tell each other of it. */
export type MemberRecord = Omit<Member, 'self'>

/** The records in a peer's frame; whatever is malformed is left out, never trusted. */
export function readMemberRecords(value: unknown): readonly MemberRecord[] {
  if (!Array.isArray(value)) return []
  return value.slice(0, 10_000).flatMap((item: unknown) => {
    const { id, machine, pid, index } = (item ?? {}) as Partial<Record<keyof MemberRecord, unknown>>
    if (
      typeof id !== 'string' ||
      !/^[0-9a-f]{16}$/.test(id) ||
      typeof machine !== 'string' ||
      !Number.isSafeInteger(pid)
    )
      return []
    return [
      {
        id,
        machine: machine.slice(0, 255),
        pid: pid as number,
        index: Number.isSafeInteger(index) ? (index as number) : undefined,
      },
    ]
  })
}

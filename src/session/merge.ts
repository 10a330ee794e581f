import { channels } from '../core/channels.ts'
import type { Fields } from './fields.ts'

/** The JSON of one value as both sides found it, as this request left it, and as others did; undefined: it is not there. */
export interface Versions {
  readonly base: unknown
  readonly mine: unknown
  readonly theirs: unknown
}

/**
 * What becomes of a value that two requests have changed at the same time. `'mine'`: the later save wins;
 * `'theirs'`: the earlier one; `'add'`: numbers, both differences count; `'union'`: lists, what either side has added or
 * removed; or a function that gives the value (undefined: none).
 */
export type MergeRule = 'mine' | 'theirs' | 'add' | 'union' | ((path: string, versions: Versions) => unknown)

/** One rule for all values, or rules by path: `{ 'cart.items': 'union', visits: 'add', '*': 'theirs' }`. */
export type MergeOption = MergeRule | Readonly<Record<string, MergeRule>>

export type RuleFor = (path: string) => MergeRule

export const MERGE_RULES = ['mine', 'theirs', 'add', 'union'] as const

export function ruleFor(option: MergeOption | undefined): RuleFor {
  if (option === undefined) return () => 'mine'
  if (typeof option !== 'object') return () => option
  const rules = new Map(Object.entries(option))
  const others = rules.get('*') ?? 'mine'
  return (path) => rules.get(path) ?? others
}

export interface Change {
  /** JSON this request has loaded; undefined: it was not there. */
  readonly base: string | undefined
  /** JSON it wants; undefined: it has deleted the field. */
  readonly mine: string | undefined
}

export type Changes = ReadonlyMap<string, Change>

export function changesBetween(base: Fields, now: Fields): Changes {
  const changes = new Map<string, Change>()
  for (const [field, mine] of now) {
    const before = base.get(field)
    if (before !== mine) changes.set(field, { base: before, mine })
  }
  for (const [field, before] of base)
    if (!now.has(field)) changes.set(field, { base: before, mine: undefined })
  return changes
}

/** Puts one request's changes on top of what others have stored. */
export function applyChanges(changes: Changes, onto: Map<string, string>, rules: RuleFor): void {
  for (const [field, change] of changes) {
    const json = mergedField(field, change, onto.get(field), rules)
    if (json === undefined) onto.delete(field)
    else onto.set(field, json)
  }
}

/** The JSON that one field gets when it holds `theirs`, which need not be the base any more. */
export function mergedField(
  field: string,
  { base, mine }: Change,
  theirs: string | undefined,
  rules: RuleFor,
): string | undefined {
  if (theirs === base) return mine
  const parsed = (json: string | undefined): unknown => (json === undefined ? undefined : JSON.parse(json))
  const versions = { base: parsed(base), mine: parsed(mine), theirs: parsed(theirs) }
  return JSON.stringify(merged(field, versions, rules))
}

function merged(path: string, versions: Versions, rules: RuleFor): unknown {
  const { base, mine, theirs } = versions
  const rule = rules(path)
  if (rule === 'add' && isNumber(mine) && isNumber(theirs)) return theirs + mine - (isNumber(base) ? base : 0)
  if (isSame(base, theirs)) return mine
  if (isSame(base, mine)) return theirs
  if (rule === 'union' && Array.isArray(mine) && Array.isArray(theirs)) {
    return union(Array.isArray(base) ? base : [], mine, theirs)
  }
  if (isPlain(mine) && isPlain(theirs))
    return mergedObject(path, isPlain(base) ? base : {}, mine, theirs, rules)
  if (isSame(mine, theirs)) return mine
  if (channels.session.hasSubscribers) channels.session.publish({ event: 'conflict', reason: 'merged', path })
  if (typeof rule === 'function') return rule(path, versions)
  if (rule === 'theirs') return theirs
  // Who still works with a value outweighs who has thrown it away.
  return mine === undefined ? theirs : mine
}

type Plain = Readonly<Record<string, unknown>>

function mergedObject(path: string, base: Plain, mine: Plain, theirs: Plain, rules: RuleFor): Plain {
  const result: [string, unknown][] = []
  for (const key of new Set([...Object.keys(theirs), ...Object.keys(mine)])) {
    const of = (side: Plain): unknown => (Object.hasOwn(side, key) ? side[key] : undefined)
    const value = merged(`${path}.${key}`, { base: of(base), mine: of(mine), theirs: of(theirs) }, rules)
    if (value !== undefined) result.push([key, value])
  }
  return Object.fromEntries(result) // defines, so that a key cannot be a prototype
}

/** What is in both, then what either side has added; what either has removed is out. Compared as JSON. */
function union(base: readonly unknown[], mine: readonly unknown[], theirs: readonly unknown[]): unknown[] {
  const texts = (list: readonly unknown[]): Set<string> => new Set(list.map((item) => JSON.stringify(item)))
  const [before, here, there] = [texts(base), texts(mine), texts(theirs)]
  const all = new Set([...there, ...here])
  return [...all]
    .filter((text) => !before.has(text) || (here.has(text) && there.has(text)))
    .map((text) => JSON.parse(text) as unknown)
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number'
}

function isPlain(value: unknown): value is Plain {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Both come from JSON, so the order of keys is the only thing that may differ by accident. */
function isSame(a: unknown, b: unknown): boolean {
  if (a === b) return true
  if (Array.isArray(a)) {
    return Array.isArray(b) && a.length === b.length && a.every((item, index) => isSame(item, b[index]))
  }
  if (!isPlain(a) || !isPlain(b)) return false
  const keys = Object.keys(a)
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && isSame(a[key], b[key]))
  )
}

import { parseList as parse } from 'structured-headers'

export interface Item {
  value: unknown
  params: Record<string, unknown>
}

/** A list of RFC 9651, by a parser of somebody else's. */
export function parseList(text: string): Item[] {
  return parse(text).map(([value, params]) => ({ value, params: Object.fromEntries(params) }))
}

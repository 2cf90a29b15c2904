/** From what zod found to sentences that help: the path, what was expected, what it may have been meant to be. */

import type { z } from 'zod'
import { formatPath, type Path } from './problems.ts'
import { isSecretAt, knownKeys, knownWords, unionMessage } from './schema-walk.ts'
import { didYouMean } from './suggest.ts'
import { parseBytes, parseDuration } from './types.ts'

type Issue = z.core.$ZodIssue

export interface Finding {
  readonly path: Path
  readonly message: string
  /** What may have been meant; follows the message. Takes a search, so it is asked for where it is shown. */
  readonly hint?: () => string
  /** Where to point: at the key, or at its value. */
  readonly at: 'key' | 'value'
  /** What must be taken away for the rest to be checked on its own. */
  readonly prune: Path
  /** It is about a key that is not known. */
  readonly unknown?: boolean
}

export function findingsOf(issues: readonly Issue[], schema: z.core.$ZodType, data: unknown): Finding[] {
  const found = issues.flatMap((issue) => findings(issue, [], schema, data))
  // A misspelt key is also a missing one: that is told once.
  const around = new Set(found.filter(({ unknown }) => unknown).map(({ path }) => formatPath(path.slice(0, -1))))
  return found.filter(({ path, unknown }) => {
    if (unknown) return true
    const missing = path.length > 0 && valueAt(data, path) === undefined
    return !around.has(formatPath(path)) && !(missing && around.has(formatPath(path.slice(0, -1))))
  })
}

function findings(issue: Issue, base: Path, schema: z.core.$ZodType, data: unknown): Finding[] {
  const path = [...base, ...(issue.path as (string | number)[])]
  const value = valueAt(data, path)
  const one = (message: string): Finding[] => [{ path, message, at: 'value', prune: path }]
  switch (issue.code) {
    case 'unrecognized_keys': {
      const known = knownKeys(schema, path)
      return issue.keys.map((key) => ({
        path: [...path, key],
        message: key === '<<' ? MERGE_KEY : 'unknown key.',
        ...(key !== '<<' && { hint: () => knownHint(key, known) }),
        at: 'key',
        prune: [...path, key],
        unknown: true,
      }))
    }
    case 'invalid_union':
      return unionFindings(issue, path, value, schema, data)
    case 'invalid_key': {
      const reason = issue.issues.map(({ message }) => message).join('; ')
      return [{ path, message: `as a key: ${reason}`, at: 'key', prune: path }]
    }
    case 'invalid_type':
      if (value === undefined) return missing(path)
      if (isSecretAt(schema, path)) return one('expected a text: put it in quotes')
      return one(typeMessage(issue.expected, value, issue.message))
    case 'invalid_value': {
      if (value === undefined) return missing(path, issue.message)
      if (!issue.message.startsWith('Invalid')) return one(issue.message)
      return one(wordMessage(value, knownWords(schema, path)))
    }
    case 'too_small':
    case 'too_big':
      return one(sizeMessage(issue))
    default: {
      const message = issue.message.startsWith('Invalid')
        ? (unionMessage(schema, path) ?? 'is not in the right form')
        : issue.message
      return one(value === undefined ? message : message + unitHint(message, value))
    }
  }
}

function missing(path: Path, message = ''): Finding[] {
  const parent = path.slice(0, -1)
  const hint = message !== '' && !message.startsWith('Invalid') ? ` (${message})` : ''
  return [{ path, message: `this key is required and not there${hint}`, at: 'key', prune: parent }]
}

const MERGE_KEY = 'merge keys are not part of YAML 1.2: repeat the keys, or use an alias for a whole value'

function knownHint(key: string, known: string[]): string {
  const near = didYouMean(key, known)
  if (near !== '') return near
  return known.length > 0 && known.length <= 12 ? ` Known here: ${known.join(', ')}` : ''
}

function unionFindings(
  issue: Extract<Issue, { code: 'invalid_union' }>,
  path: Path,
  value: unknown,
  schema: z.core.$ZodType,
  data: unknown,
): Finding[] {
  if (value === undefined) return missing(path, issue.message)
  // An option that took the value's shape knows best what is wrong inside of it.
  const inside = issue.errors.filter((errors) => !errors.some((error) => error.path.length === 0 && isMismatch(error)))
  const deepest = inside.sort((a, b) => a.length - b.length)[0]
  const own = !issue.message.startsWith('Invalid')
  if (deepest !== undefined && (!own || typeof value === 'object')) {
    return deepest.flatMap((error) => findings(error, path, schema, data))
  }
  const one = (message: string): Finding[] => [{ path, message, at: 'value', prune: path }]
  const words = knownWords(schema, path)
  if (own) {
    const near = typeof value === 'string' ? didYouMean(value, words) : ''
    return one(`${issue.message}${near === '' ? unitHint(issue.message, value) : `.${near}`}`)
  }
  const kinds = new Set(issue.errors.flatMap((errors) => errors.map(kindOf)))
  const near = typeof value === 'string' ? didYouMean(value, words) : ''
  return one(`expected ${[...kinds].join(' or ')}, not ${describe(value)}.${near}`.replace(/\.$/, ''))
}

function isMismatch(issue: Issue): boolean {
  return issue.code === 'invalid_type' || issue.code === 'invalid_value'
}

function kindOf(issue: Issue): string {
  if (issue.code === 'invalid_type') return article(issue.expected)
  if (issue.code === 'invalid_value') return issue.values.map(String).join(' or ')
  return issue.message.replace(/^expected /, '')
}

const ARTICLES: Record<string, string> = {
  string: 'a text',
  int: 'a whole number',
  number: 'a number',
  boolean: 'true or false',
  object: 'a mapping (key: value)',
  record: 'a mapping (key: value)',
  array: 'a list',
}

function article(type: string): string {
  return ARTICLES[type] ?? type
}

function typeMessage(expected: string, value: unknown, message: string): string {
  if (!message.startsWith('Invalid')) return message
  const text = `expected ${article(expected)}, not ${describe(value)}`
  if (expected === 'boolean' && typeof value === 'string') {
    if (/^(?:yes|on|y)$/i.test(value)) return `${text}. Did you mean true?`
    if (/^(?:no|off|n)$/i.test(value)) return `${text}. Did you mean false?`
  }
  if ((expected === 'object' || expected === 'record') && value === null) return `${text}; write {} for the defaults`
  if (expected === 'array' && value !== null) return `${text}: put it in [ ]`
  if (expected === 'string' && (typeof value === 'number' || typeof value === 'boolean')) {
    return `${text}: put it in quotes`
  }
  if ((expected === 'number' || expected === 'int') && typeof value === 'string') {
    if (/^[\d.]+%$/.test(value)) return `${text}: write it without the percent sign`
    const ms = parseDuration(value)
    if (ms !== undefined || parseBytes(value) !== undefined) return `${text}: this one has no unit`
    if (/^-?\d[\d_,]*$/.test(value)) return `${text}: write the digits alone, without quotes`
  }
  return text
}

function wordMessage(value: unknown, words: string[]): string {
  const text = `expected ${words.length === 1 ? words[0] : `one of ${words.join(', ')}`}, not ${describe(value)}`
  const near = typeof value === 'string' ? didYouMean(value, words) : ''
  return near === '' ? text : `${text}.${near}`
}

function sizeMessage(issue: Extract<Issue, { code: 'too_small' | 'too_big' }>): string {
  if (!/^(?:Too|Invalid)/.test(issue.message)) return issue.message
  const small = issue.code === 'too_small'
  const bound = String(small ? issue.minimum : issue.maximum)
  const unit = { string: 'characters', array: 'entries' }[issue.origin as string]
  if (small && issue.origin === 'string' && bound === '1') return 'must not be empty'
  if (small && issue.origin === 'array' && bound === '1') return 'needs at least one entry'
  const word = issue.inclusive === false ? (small ? 'more than' : 'less than') : small ? 'at least' : 'at most'
  return `expected ${word} ${bound}${unit === undefined ? '' : ` ${unit}`}`
}

const DURATION_UNITS: Record<string, string> = {
  sec: 's', secs: 's', second: 's', seconds: 's', min: 'm', mins: 'm', minute: 'm', minutes: 'm', hr: 'h', hrs: 'h', hour: 'h',
  hours: 'h', day: 'd', days: 'd', msec: 'ms', millis: 'ms', milliseconds: 'ms',
} // biome-ignore format: a table

/** ` Did you mean "30s"?` when only the unit is wrong. */
function unitHint(message: string, value: unknown): string {
  if (typeof value !== 'string' && typeof value !== 'number') return ''
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(String(value))
  if (match === null) return ''
  const [, digits, unit] = match
  if (message.startsWith('expected a duration')) {
    if (unit === '') return `: ${digits} has no unit. Did you mean "${digits}${Number(digits) >= 100 ? 'ms' : 's'}"?`
    const right = DURATION_UNITS[unit!.toLowerCase()] ?? unit!.toLowerCase()
    return parseDuration(digits + right) === undefined ? '' : `. Did you mean "${digits}${right}"?`
  }
  if (message.startsWith('expected a size')) {
    const letter = /^([kmg])i?b?$/i.exec(unit!)?.[1]?.toUpperCase()
    if (letter === undefined) return /^b(?:ytes?)?$/i.test(unit!) ? `. Did you mean ${digits}?` : ''
    return `. Did you mean "${digits}${letter}${/i/i.test(unit!) || !/b/i.test(unit!) ? 'iB' : 'B'}"?`
  }
  return ''
}

function describe(value: unknown): string {
  if (value === null) return 'nothing'
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object') return 'a mapping'
  if (typeof value === 'string') return value.length <= 40 ? `"${value}"` : 'a text'
  return String(value)
}

export function valueAt(data: unknown, path: Path): unknown {
  let value = data
  for (const part of path) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined
    value = (value as Record<string | number, unknown>)[part]
  }
  return value
}

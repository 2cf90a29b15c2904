/**
 * `${NAME}`, `${NAME:-default}`, `${NAME:?message}`, `${file:/path}` and `$$`. Substitution works on parsed scalars, so
 * whatever a variable holds stays one value: it cannot add keys or lines to the file.
 */

import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'

export interface SubstitutionContext {
  readonly env: Readonly<Record<string, string | undefined>>
  /** `${file:…}` is relative to it. */
  readonly directory: string
  /** Gets the absolute path of every file that was read. */
  readonly files: Set<string>
}

const MAX_FILE_BYTES = 1024 * 1024
const REFERENCE = /\$\$|\$\{([^}]*)\}|\$\{/g
const VARIABLE = /^([A-Za-z_][A-Za-z0-9_]*)(?::([-?])([\s\S]*))?$/

/**
 * Characters that mean something to YAML, and what stands for them while it parses: without this `{ port: ${PORT} }`
 * would be a syntax error, because braces end a plain scalar inside braces. One UTF-16 unit for one, so that
 * positions stay right.
 */
const SHIELDED = '{}[],:#&*!|>%@`'
const SHIELD_START = 0xf8a0
const SHIELD = new Map([...SHIELDED].map((char, i) => [char, String.fromCharCode(SHIELD_START + i)]))
const UNSHIELD = new RegExp(
  `[${String.fromCharCode(SHIELD_START)}-${String.fromCharCode(SHIELD_START + SHIELDED.length - 1)}]`,
  'g',
)

/** Hides the inside of every `${…}` from the YAML parser; one with quotes in it needs quotes around it anyway. */
export function shield(text: string): string {
  return text.replace(/\$\{[^{}\n"']*\}/g, (reference) => reference.replace(/./gu, (char) => SHIELD.get(char) ?? char))
}

/** Undoes `shield`. */
export function unshield(text: string): string {
  return text.replace(UNSHIELD, (char) => SHIELDED[char.charCodeAt(0) - SHIELD_START]!)
}

/** The text with everything replaced. `problem` is called for each reference that cannot be; '' takes its place. */
export function substitute(text: string, context: SubstitutionContext, problem: (message: string) => void): string {
  return text.replace(REFERENCE, (whole, inner: string | undefined) => {
    if (whole === '$$') return '$'
    if (inner === undefined) {
      problem('an opening brace after $ without the closing one; write $$ for a plain $')
      return ''
    }
    if (inner.startsWith('file:')) return readReferenced(inner.slice(5), context, problem)
    const match = VARIABLE.exec(inner)
    if (match === null) {
      problem(
        `"${whole}" is not a reference: expected \${NAME}, \${NAME:-default}, \${NAME:?message} or \${file:/path}`,
      )
      return ''
    }
    const [, name, operator, rest] = match
    const value = Object.hasOwn(context.env, name!) ? context.env[name!] : undefined
    // As in a shell: with a colon, empty counts as not set.
    if (operator === '-') return value === undefined || value === '' ? rest! : value
    if (operator === '?' && (value === undefined || value === '')) {
      problem(`the environment variable ${name} is not set${rest === '' ? '' : `: ${rest}`}`)
      return ''
    }
    if (value === undefined) {
      problem(`the environment variable ${name} is not set; \${${name}:-value} gives a default`)
      return ''
    }
    return value
  })
}

function readReferenced(path: string, context: SubstitutionContext, problem: (message: string) => void): string {
  const absolute = resolve(context.directory, path.trim())
  context.files.add(absolute)
  try {
    const text = readFileSync(absolute, 'utf8')
    if (text.length > MAX_FILE_BYTES) {
      problem(`the file ${absolute} is larger than 1 MiB`)
      return ''
    }
    // Editors and `echo` end a file with a line end that is not part of the secret.
    return text.replace(/\r?\n$/, '')
  } catch (error) {
    problem(`the file ${absolute} cannot be read (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
    return ''
  }
}

/** A plain scalar's value by the core schema of YAML 1.2: what `port: 8080` would have been. */
export function retype(text: string): string | number | boolean | null {
  if (/^(?:~|null|Null|NULL|)$/.test(text)) return null
  if (/^(?:true|True|TRUE)$/.test(text)) return true
  if (/^(?:false|False|FALSE)$/.test(text)) return false
  if (/^[-+]?[0-9]+$/.test(text)) return Number(text)
  if (/^0o[0-7]+$/.test(text) || /^0x[0-9a-fA-F]+$/.test(text)) return Number(text)
  if (/^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$/.test(text)) return Number(text)
  return text
}

/**
 * The gateway's own log: what it did and why, for operators. Lines are pino's, so that pino-pretty and what else reads
 * pino can read them; `level_name` is there for people with grep. Not for requests: those are the access log's.
 */

import { isSecretName, jsonText } from './log-text.ts'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'fatal'

const LEVELS: Record<LogLevel | 'silent', number> = { debug: 20, info: 30, warn: 40, error: 50, fatal: 60, silent: 100 }

export type LogFields = Readonly<Record<string, unknown>>
type Log = (msg: string, fields?: LogFields) => void

export interface Logger {
  readonly debug: Log
  readonly info: Log
  readonly warn: Log
  /** An error goes into `err`: `log.error('reload failed', { err })`. */
  readonly error: Log
  readonly fatal: Log
  /** A logger whose lines carry these fields too. */
  child(fields: LogFields): Logger
}

export interface LoggerOptions {
  readonly level: LogLevel | 'silent'
  readonly write: (line: string) => void
  readonly fields?: LogFields
  readonly now?: () => number
}

const nothing: Log = () => {}

export function createLogger(options: LoggerOptions): Logger {
  const { level, write, fields = {}, now = Date.now } = options
  const bound = members(fields)
  const at = (name: LogLevel): Log => {
    if (LEVELS[name] < LEVELS[level]) return nothing
    const head = `{"level":${LEVELS[name]},"level_name":"${name.toUpperCase()}","time":`
    return (msg, extra) => {
      write(
        `${head}${now()},"pid":${process.pid}${bound}${extra ? members(extra) : ''},"msg":${jsonText(msg, 8192)}}\n`,
      )
    }
  }
  return {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    fatal: at('fatal'),
    child: (more) => createLogger({ ...options, fields: { ...fields, ...more } }),
  }
}

/** Members of a line, each with its comma before it. What cannot be written as JSON is named instead of thrown. */
function members(fields: LogFields): string {
  let text = ''
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined) continue
    text += `,${jsonText(name)}:${isSecretName(name) ? '"***"' : valueText(value)}`
  }
  return text
}

function valueText(value: unknown): string {
  if (typeof value === 'string') return jsonText(value, 8192)
  try {
    return JSON.stringify(value, plain) ?? 'null'
  } catch {
    return '"[unserialisable]"'
  }
}

function plain(name: string, value: unknown): unknown {
  if (name !== '' && isSecretName(name)) return '***'
  if (typeof value === 'bigint') return String(value)
  if (!(value instanceof Error)) return value
  const { code, cause } = value as NodeJS.ErrnoException & { cause?: unknown }
  return { type: value.name, message: value.message, code, stack: value.stack, cause }
}

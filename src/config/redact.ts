/** A config as it may be shown: everything that its schema calls secret, and passwords in URLs, as `***`. */

import { configSchema } from './schema.ts'
import { isSecretAt } from './schema-walk.ts'

const HIDDEN = '***'
const SECRET_FIELD = /^(?:proxy-)?authorization$|^(?:set-)?cookie$|secret|token|password|api-?key/i

/** A copy; the config itself stays as it is. */
export function redact(config: object): unknown {
  return redactAt(config, [])
}

function redactAt(value: unknown, path: (string | number)[]): unknown {
  if (Array.isArray(value)) return value.map((item, i) => redactAt(item, [...path, i]))
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, redactAt(inner, [...path, key])]))
  }
  if (typeof value !== 'string') return value
  if (isSecretAt(configSchema, path) || isSecretField(path)) return HIDDEN
  return value.replace(/(:\/\/[^/@:\s]*):[^/@\s]*@/g, `$1:${HIDDEN}@`)
}

/** Header fields that carry credentials, wherever a config sets them. */
function isSecretField(path: readonly (string | number)[]): boolean {
  const headers = path.indexOf('headers')
  return headers >= 0 && path.slice(headers + 1).some((part) => typeof part === 'string' && SECRET_FIELD.test(part))
}

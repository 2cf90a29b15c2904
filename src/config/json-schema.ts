/** The JSON Schema (draft-07) of the config file, for editors: made of the same declarations that check it. */

import { z } from 'zod'
import { configSchema } from './schema.ts'

const REFERENCE = '\\$\\{'
type Json = Record<string, unknown>

/** As a value; `JSON.stringify(jsonSchema(), null, 2)` is what gateway.schema.json holds. */
export function jsonSchema(): Json {
  const schema = z.toJSONSchema(configSchema, { target: 'draft-7', io: 'input', unrepresentable: 'any' }) as Json
  const { $schema, ...rest } = allowReferences(schema) as Json
  return { $schema, $id: 'https://unpkg.com/fluxor-gateway/gateway.schema.json', title: 'Fluxor Gateway', ...rest }
}

/** Wherever a value may stand, `${NAME}` may stand for it. */
function allowReferences(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(allowReferences)
  if (typeof node !== 'object' || node === null) return node
  const schema: Json = {}
  for (const [key, value] of Object.entries(node)) {
    if (key === 'properties' || key === 'definitions') {
      schema[key] = Object.fromEntries(
        Object.entries(value as Json).map(([name, inner]) => [name, allowReferences(inner)]),
      )
    } else if (key === 'items' || key === 'additionalProperties' || key === 'anyOf' || key === 'allOf') {
      schema[key] = allowReferences(value)
    } else if (key === 'secret') schema['writeOnly'] = true
    else schema[key] = value
  }
  // zod's bounds of a safe integer tell nobody anything.
  if (schema['minimum'] === Number.MIN_SAFE_INTEGER) delete schema['minimum']
  if (schema['maximum'] === Number.MAX_SAFE_INTEGER) delete schema['maximum']
  if ('const' in schema) return schema
  const { type, enum: words, pattern, minLength, maxLength, format, ...rest } = schema
  if (words !== undefined)
    return {
      ...rest,
      anyOf: [
        { type, enum: words },
        { type: 'string', pattern: REFERENCE },
      ],
    }
  if (type === 'integer' || type === 'number' || type === 'boolean') {
    return { type: [type, 'string'], ...rest, pattern: REFERENCE }
  }
  if (type === 'string' && pattern !== undefined) return { type, ...rest, pattern: `${REFERENCE}|(?:${pattern})` }
  if (type === 'string') return { type, ...rest }
  return schema
}

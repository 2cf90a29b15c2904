/** Walks a zod schema by the path of a value: which keys, words and types are known there, and what is secret. */

import { z } from 'zod'
import type { Path } from './problems.ts'

type Schema = z.core.$ZodType

/** The schemas that a value may meet at one place, wrappers taken off; a union counts as all of its options. */
export function unwrap(schema: Schema): Schema[] {
  const def = (schema as z.core.$ZodTypes)._zod.def
  switch (def.type) {
    case 'optional':
    case 'nullable':
    case 'default':
    case 'prefault':
    case 'nonoptional':
    case 'readonly':
    case 'catch':
      return unwrap(def.innerType)
    case 'pipe':
      return unwrap(def.in)
    case 'union':
      return def.options.flatMap((option) => unwrap(option))
    default:
      return [schema]
  }
}

function child(schema: Schema, part: string | number): Schema[] {
  const def = (schema as z.core.$ZodTypes)._zod.def
  switch (def.type) {
    case 'object':
      return typeof part === 'string' && Object.hasOwn(def.shape, part) ? unwrap(def.shape[part]!) : []
    case 'record':
      return unwrap(def.valueType)
    case 'array':
      return typeof part === 'number' ? unwrap(def.element) : []
    default:
      return []
  }
}

export function schemasAt(root: Schema, path: Path): Schema[] {
  let found = unwrap(root)
  for (const part of path) found = found.flatMap((schema) => child(schema, part))
  return found
}

/** The keys that a mapping may have there. */
export function knownKeys(root: Schema, path: Path): string[] {
  return schemasAt(root, path).flatMap((schema) => {
    const def = (schema as z.core.$ZodTypes)._zod.def
    return def.type === 'object' ? Object.keys(def.shape) : []
  })
}

/** The words that are allowed there. */
export function knownWords(root: Schema, path: Path): string[] {
  return schemasAt(root, path).flatMap((schema) => {
    const def = (schema as z.core.$ZodTypes)._zod.def
    if (def.type === 'enum') return Object.values(def.entries).map(String)
    return def.type === 'literal' ? def.values.map(String) : []
  })
}

/** True when a text is what is wanted there, and nothing else that YAML makes of a plain scalar would do. */
export function wantsText(root: Schema, path: Path): boolean {
  const types = schemasAt(root, path).map((schema) => (schema as z.core.$ZodTypes)._zod.def.type)
  return types.includes('string') && types.every((type) => type === 'string' || type === 'object' || type === 'array')
}

/** The wording that a union there gives to all of its refusals: zod leaves it out when only one option fits half. */
export function unionMessage(root: Schema, path: Path): string | undefined {
  const last = path[path.length - 1]
  const holders = last === undefined ? [root] : schemasAt(root, path.slice(0, -1)).flatMap((s) => rawChild(s, last))
  for (const holder of holders) {
    let schema: Schema | undefined = holder
    while (schema !== undefined) {
      const def: z.core.$ZodTypes['_zod']['def'] = (schema as z.core.$ZodTypes)._zod.def
      if (def.type === 'union') {
        const message = def.error?.({} as never)
        if (typeof message === 'string') return message
        break
      }
      schema = 'innerType' in def ? def.innerType : def.type === 'pipe' ? def.in : undefined
    }
  }
  return undefined
}

function rawChild(schema: Schema, part: string | number): Schema[] {
  const def = (schema as z.core.$ZodTypes)._zod.def
  if (def.type === 'object') return Object.hasOwn(def.shape, part) ? [def.shape[part]!] : []
  if (def.type === 'record') return [def.valueType]
  return def.type === 'array' ? [def.element] : []
}

export function isSecret(schema: Schema): boolean {
  return unwrap(schema).some(
    (inner) => (z.globalRegistry.get(inner) as { secret?: boolean } | undefined)?.secret === true,
  )
}

export function isSecretAt(root: Schema, path: Path): boolean {
  return schemasAt(root, path).some(isSecret)
}

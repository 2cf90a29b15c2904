/**
 * `npm run docs`: docs/reference.md, every key of the config file with its type, its default and what it means, made of the
 * declarations that check it. `--check` fails when the page is not what would be written.
 */

import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { z } from 'zod'
import { jsonSchema } from '../src/config/json-schema.ts'
import { configSchema } from '../src/config/schema.ts'
import { schemasAt } from '../src/config/schema-walk.ts'

type Json = Record<string, unknown>
type Path = (string | number)[]

const PAGE = fileURLToPath(new URL('../docs/reference.md', import.meta.url))
const DURATION = '(ms|s|m|h|d)'
const BYTES = '(B|KiB|MiB'

const INTRO = `# Reference

Every key of the config file, as \`fluxor-gateway check\` takes it. This page is made of the same declarations (\`npm run docs\`),
and so is [gateway.schema.json](../gateway.schema.json), which gives editors completion: put

\`\`\`yaml
# yaml-language-server: $schema=https://unpkg.com/fluxor-gateway/gateway.schema.json
\`\`\`

on the first line of the file.

- A **duration** carries its unit: \`500ms\`, \`30s\`, \`5m\`, \`1h\`, \`1d\`; \`0\` means off. A **size** is \`64KiB\`, \`10MB\`, or a whole number of
  bytes. A **percentage** is \`50%\` or \`50\`.
- \`\${NAME}\` and \`\${NAME:-default}\` come from the environment, \`\${file:/run/secrets/x}\` from a file.
- An unknown key is an error. What has no default is off, or need not be given; **required** keys say so.
- \`[]\` stands for each entry of a list, \`NAME\` for a name that you choose.
`

interface Row {
  readonly key: string
  readonly type: string
  readonly fallback: string
  readonly meaning: string
}

export function referencePage(): string {
  const schema = jsonSchema() as { properties: Record<string, Json>; required: string[] }
  const sections = Object.entries(schema.properties).map(([key, node]) => {
    const rows: Row[] = []
    addRows(rows, node, '', [key])
    const meaning = text(node['description'])
    const own = rows.length === 0 || typeof node['type'] === 'string'
    const type = own ? describeType(node) : ''
    const facts = [
      ...(schema.required.includes(key) ? ['**required**'] : []),
      ...(rows.length === 0
        ? [type, ...(defaultOf([key], node) === '' ? [] : [`default ${defaultOf([key], node)}`])]
        : []),
    ]
    const head = `## ${key}\n\n${meaning}${facts.length > 0 ? ` (${facts.join(', ')})` : ''}\n`
    if (rows.length === 0) return head
    const table = rows.map((row) => `| ${[code(row.key), row.type, row.fallback, row.meaning].map(cell).join(' | ')} |`)
    return `${head}\n| key | type | default | meaning |\n|---|---|---|---|\n${table.join('\n')}\n`
  })
  return `${INTRO}\n${sections.join('\n')}`
}

/** The keys inside a node, in the order of the declarations. */
function addRows(rows: Row[], node: Json, prefix: string, path: Path): void {
  const all = options(node)
  // One block or a list of such blocks: the keys are told once, as those of the list.
  const listed = all.some((option) => option['items'] !== undefined && hasKeys(option['items'] as Json))
  for (const option of all) {
    if (listed && option['items'] === undefined) continue
    const properties = option['properties'] as Record<string, Json> | undefined
    if (properties !== undefined) {
      const required = (option['required'] ?? []) as string[]
      for (const [key, child] of Object.entries(properties)) {
        const name = prefix === '' ? key : `${prefix}.${key}`
        if (rows.some((row) => row.key === name)) continue
        const at = [...path, key]
        const fallback = required.includes(key) ? '**required**' : defaultOf(at, child)
        rows.push({ key: name, type: describeType(child), fallback, meaning: text(child['description']) })
        addRows(rows, child, name, at)
      }
    }
    const items = option['items'] as Json | undefined
    if (items !== undefined && hasKeys(items)) addRows(rows, items, `${prefix}[]`, [...path, 0])
    const values = option['additionalProperties'] as Json | false | undefined
    if (values && hasKeys(values)) addRows(rows, values, prefix === '' ? 'NAME' : `${prefix}.NAME`, [...path, 'NAME'])
  }
}

function hasKeys(node: Json): boolean {
  return options(node).some((option) => 'properties' in option)
}

/** One value or a list of them is one thing here, and `\${NAME}` may stand anywhere. */
function options(node: Json): Json[] {
  const all = (node['anyOf'] as Json[] | undefined)?.flatMap(options) ?? [node]
  return all.filter((option) => !(option['type'] === 'string' && option['pattern'] === '\\$\\{'))
}

function describeType(node: Json): string {
  const names = options(node).map((option) => {
    const type = Array.isArray(option['type']) ? option['type'][0] : option['type']
    const pattern = String(option['pattern'] ?? '')
    if ('const' in option) return code(JSON.stringify(option['const']).replaceAll('"', ''))
    if ('enum' in option) return (option['enum'] as unknown[]).map((word) => code(String(word))).join(', ')
    if (pattern.includes(DURATION)) return 'duration'
    if (pattern.includes(BYTES)) return 'size'
    if (pattern.includes('%$')) return 'percentage'
    if (type === 'array') return `list of ${describeType(option['items'] as Json).replace(/^block$/, 'blocks')}`
    if (type === 'object') {
      const values = option['additionalProperties'] as Json | false | undefined
      if (!values || Object.keys(values).length === 0) return 'block'
      return hasKeys(values) ? 'blocks by name' : `${describeType(values)} by name`
    }
    if (type === 'integer') return 'whole number'
    if (type === 'boolean') return '`true`, `false`'
    return type === undefined ? 'any value' : type === 'string' ? 'text' : String(type)
  })
  const distinct = [...new Set(names)]
  // A duration of 0 and a size in bytes are told above; a percentage may be a plain number.
  if (distinct[0] === 'duration')
    return ['duration', ...distinct.slice(1).filter((name) => name !== '`0`')].join(' or ')
  if (distinct[0] === 'size') return 'size'
  if (distinct[0] === 'percentage') return 'percentage'
  const [first, second] = distinct
  if (distinct.length === 2 && second?.replace(/blocks$/, 'block') === `list of ${first}`) return `one or a ${second}`
  return distinct.join(' or ')
}

/** As it would stand in the file. The declaration knows it, also where the JSON Schema cannot say it. */
function defaultOf(path: Path, node: Json): string {
  const value = declaredDefault(path)
  if (value === undefined) return ''
  const patterns = options(node).map((option) => String(option['pattern'] ?? ''))
  if (typeof value === 'number' && patterns.some((pattern) => pattern.includes(DURATION)))
    return code(asDuration(value))
  if (typeof value === 'number' && patterns.some((pattern) => pattern.includes(BYTES))) return code(asBytes(value))
  if (typeof value === 'object' && value !== null && Object.keys(value).length === 0)
    return Array.isArray(value) ? 'none' : ''
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return ''
  if (Array.isArray(value) && value.some((entry) => typeof entry === 'object')) {
    return code(
      JSON.stringify(value)
        .replace(/"(\w+)":/g, ' $1: ')
        .replaceAll('}', ' }')
        .replaceAll('"', ''),
    )
  }
  const shown = Array.isArray(value) ? value.join(', ') : String(value)
  return shown === '' ? 'empty' : code(shown)
}

function declaredDefault(path: Path): unknown {
  const key = path.at(-1)!
  for (const holder of schemasAt(configSchema, path.slice(0, -1))) {
    const def = (holder as z.core.$ZodTypes)._zod.def
    let schema: z.core.$ZodType | undefined = def.type === 'object' ? def.shape[key as string] : undefined
    while (schema !== undefined) {
      const inner: z.core.$ZodTypes['_zod']['def'] = (schema as z.core.$ZodTypes)._zod.def
      if (inner.type === 'default' || inner.type === 'prefault') return inner.defaultValue
      schema =
        inner.type === 'pipe' ? inner.in : 'innerType' in inner ? (inner.innerType as z.core.$ZodType) : undefined
    }
  }
  return undefined
}

function asDuration(ms: number): string {
  if (ms === 0) return '0'
  for (const [unit, size] of [
    ['h', 3_600_000],
    ['m', 60_000],
    ['s', 1000],
  ] as const)
    if (ms % size === 0) return `${ms / size}${unit}`
  return `${ms}ms`
}

function asBytes(bytes: number): string {
  if (bytes === 0) return '0'
  for (const [unit, size] of [
    ['MiB', 2 ** 20],
    ['KiB', 1024],
  ] as const)
    if (bytes % size === 0) return `${bytes / size}${unit}`
  return `${bytes}B`
}

function text(description: unknown): string {
  return typeof description === 'string' ? description : ''
}

function code(value: string): string {
  return value === '' ? '' : `\`${value}\``
}

function cell(value: string): string {
  return value.replaceAll('|', '\\|').replaceAll('\n', ' ')
}

if (import.meta.main) {
  const page = referencePage()
  if (!process.argv.includes('--check')) writeFileSync(PAGE, page)
  else if (readFileSync(PAGE, 'utf8') !== page) {
    console.error('docs/reference.md is not up to date: npm run docs')
    process.exitCode = 1
  }
}

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
- An unknown key is an error. What has no default is off, or need not be given; **required** keys say so. A block whose default is
  \`{}\` is there with the defaults of its keys, written or not.
- \`[]\` stands for each entry of a list, \`NAME\` for a name that you choose.
`

interface Row {
  readonly key: string
  readonly type: string
  readonly fallback: string
  readonly meaning: string
}

/** A block with as many keys has a table of its own. */
const OWN_TABLE = 4
/** A longer one would leave the meaning no room. */
const LONGEST_DEFAULT = 60

export function referencePage(): string {
  const schema = jsonSchema() as { properties: Record<string, Json>; required: string[] }
  const contents: string[] = []
  const sections = Object.entries(schema.properties).map(([key, node]) => {
    const rows: Row[] = []
    addRows(rows, node, '', [key])
    const fallback = defaultOf([key], node)
    const facts = [
      ...(schema.required.includes(key) ? ['**required**'] : []),
      ...(rows.length === 0 ? [describeType(node), ...(fallback === '' ? [] : [`default ${fallback}`])] : []),
    ]
    const parts = tables(key, rows)
    contents.push(`- ${[key, ...parts.slice(1).map(({ title }) => title)].map(link).join(' · ')}`)
    const head = `## ${key}\n\n${text(node['description'])}${facts.length > 0 ? ` (${facts.join(', ')})` : ''}\n`
    const entry = parts[0] !== undefined && parts[0].title !== key ? `The keys of \`${parts[0].title}\`:\n\n` : ''
    const shown = parts.map(({ title, table }, i) => (i === 0 ? entry + table : `### ${title}\n\n${table}`))
    return [head, ...shown].join('\n')
  })
  return `${INTRO}\nThe blocks:\n\n${contents.join('\n')}\n\n${sections.join('\n')}`
}

/** A table of the rows, and one for each large block among them. */
function tables(title: string, rows: readonly Row[]): { title: string; table: string }[] {
  if (rows.length === 0) return []
  // Entries of one kind: their keys need not repeat that.
  const entries = ['[].', 'NAME.'].find((prefix) => rows.every(({ key }) => key.startsWith(prefix)))
  if (entries !== undefined) {
    const place = entries === '[].' ? `${title}[]` : `${title}.NAME`
    const [own, ...others] = tables(
      place,
      rows.map((row) => ({ ...row, key: row.key.slice(entries.length) })),
    )
    return [{ title: place, table: own!.table }, ...others]
  }
  const lines: string[] = []
  const others: { title: string; table: string }[] = []
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i]!
    const inside = rows
      .slice(i + 1)
      .filter(({ key }) => key.startsWith(`${row.key}.`) || key.startsWith(`${row.key}[].`))
    let { type } = row
    if (inside.length >= OWN_TABLE) {
      const block = `${title}.${row.key}`
      const parts = tables(
        block,
        inside.map((one) => ({ ...one, key: one.key.slice(row.key.length).replace(/^\./, '') })),
      )
      others.push(...parts)
      type = type.replace(/\bblocks?\b/, (word) => `[${word}](#${slug(parts[0]!.title)})`)
      i += inside.length
    }
    lines.push(`| ${[code(row.key), type, row.fallback, row.meaning].map(cell).join(' | ')} |`)
  }
  return [{ title, table: `| key | type | default | meaning |\n|---|---|---|---|\n${lines.join('\n')}\n` }, ...others]
}

function link(title: string): string {
  return `[${title}](#${slug(title)})`
}

/** As GitHub makes it of a heading. */
function slug(title: string): string {
  return title.toLowerCase().replace(/[^a-z0-9-]/g, '')
}

/** The keys inside a node, in the order of the declarations. */
function addRows(rows: Row[], node: Json, prefix: string, path: Path): void {
  const all = options(node)
  // One block or a list of such blocks: the keys are told once, as those of the list.
  const alternatives = all.filter((option) => option['properties'] !== undefined).length > 1
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
        const fallback = required.includes(key) && !alternatives ? '**required**' : defaultOf(at, child)
        const long = fallback.length > LONGEST_DEFAULT
        const meaning = text(child['description']) + (long ? ` By default: ${fallback}.` : '')
        rows.push({ key: name, type: describeType(child), fallback: long ? 'some' : fallback, meaning })
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
      const each = describeType(values)
      return each === 'block' ? 'blocks by name' : `${each} by name`
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
  // Words to choose from are one list, whether they come one by one or together.
  const words = distinct.filter((name) => name.startsWith('`'))
  return [...(words.length > 0 ? [words.join(', ')] : []), ...distinct.filter((name) => !words.includes(name))].join(
    ' or ',
  )
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
    return Array.isArray(value) || ('additionalProperties' in node && node['additionalProperties'])
      ? 'none'
      : code('{}')
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

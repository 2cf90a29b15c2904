import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { jsonSchema } from '../../../src/config/json-schema.ts'

type Node = { [key: string]: unknown }

describe('gateway.schema.json', () => {
  it('is what the declarations say (npm run schema)', () => {
    const stored = readFileSync(join(import.meta.dirname, '../../../gateway.schema.json'), 'utf8')
    expect(stored).toBe(`${JSON.stringify(jsonSchema(), null, 2)}\n`)
  })

  it('describes every key', () => {
    const bare: string[] = []
    walk(jsonSchema(), '', (node, path) => {
      for (const [key, property] of Object.entries((node['properties'] as Node) ?? {})) {
        if (!('description' in (property as Node))) bare.push(`${path}.${key}`)
      }
    })
    expect(bare).toEqual([])
  })

  it('tells defaults as they are written in the file', () => {
    const schema = jsonSchema() as { properties: Record<string, { properties: Record<string, Node> }> }
    expect(schema.properties['admission']!.properties['queueTimeout']!['default']).toBe('1s')
    const limits = schema.properties['server']!.properties['limits'] as { properties: Record<string, Node> }
    expect(limits.properties['headerBytes']!['default']).toBe('16KiB')
  })

  it('lets a variable stand for a number and for a word', () => {
    const schema = jsonSchema() as { properties: Record<string, { properties: Record<string, Node> }> }
    expect(schema.properties['admission']!.properties['maxCCU']).toMatchObject({
      type: ['integer', 'string'],
      pattern: '\\$\\{',
      minimum: 1,
      default: 5000,
    })
    expect(JSON.stringify(schema.properties['logging']!.properties['level'])).toContain('"pattern":"\\\\$\\\\{"')
  })
})

function walk(node: unknown, path: string, visit: (node: Node, path: string) => void): void {
  if (Array.isArray(node)) for (const item of node) walk(item, path, visit)
  else if (typeof node === 'object' && node !== null) {
    visit(node as Node, path)
    for (const [key, inner] of Object.entries(node)) walk(inner, key === 'properties' ? path : `${path}.${key}`, visit)
  }
}

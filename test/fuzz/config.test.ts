/**
 * The config loader against files that are wrong in any way: it gives a config or a `ConfigError` that says where, never
 * another exception, never a change to what all objects share, and never takes long.
 */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseConfig } from '../../src/config/load.ts'
import { ConfigError } from '../../src/config/problems.ts'
import { FUZZ_TIMEOUT_MS, parameters } from './runs.ts'

const folder = join(import.meta.dirname, '../config')
const EVERYTHING = readFileSync(join(folder, 'everything.yaml'), 'utf8')
const LINES = EVERYTHING.split('\n')

function load(text: string): void {
  try {
    parseConfig(text, join(folder, 'everything.yaml'), { NAME: 'value', __proto__: 'x' })
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    expect(error.problems.length).toBeGreaterThan(0)
    for (const { line, column, message } of error.problems) {
      // 0: the file as a whole.
      expect(line).toBeGreaterThanOrEqual(0)
      expect(column).toBeGreaterThanOrEqual(line === 0 ? 0 : 1)
      expect(message).not.toMatch(/undefined is not|Cannot read|\[object Object\]/)
    }
  }
  expect(Object.keys(Object.prototype)).toEqual([])
}

const odd = fc.constantFrom(
  '', '~', 'null', '[]', '{}', '{ a: 1 }', '[1, [2]]', '0', '-1', '1e400', '.nan', '.inf', '0x10', '10s', '-5s', '1000000000000000d', '5XB',
  'true', '"', "'", '*a', '&a x', '&a [*a]', '!!js/function x', '!!binary YQ==', '!!timestamp 2020-01-01', '<<: *a', '|', '>', '? a', '- a',
  ...['NAME}', '', 'MISSING}', 'MISSING:-x}', 'file:/nonexistent}', 'file:.}', '__proto__}'].map((name) => `$\{${name}`), '__proto__', 'constructor',
  'http://', 'http://[', 'http://a:99999', '127.0.0.1:99999', '[::1', 'x'.repeat(300), '\t', '\u0000', '\ud800', '%', '#', ': ',
) // biome-ignore format: a list

describe('a file', () => {
  it('with some values or lines changed', { timeout: FUZZ_TIMEOUT_MS }, () => {
    const change = fc.record({
      line: fc.nat(LINES.length - 1),
      how: fc.constantFrom('value', 'key', 'drop', 'twice', 'indent', 'append'),
      text: odd,
    })
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 3 }), (changes) => {
        const lines = [...LINES]
        for (const { line, how, text } of changes) {
          const before = lines[line]!
          if (how === 'value') lines[line] = before.replace(/: .*$/, `: ${text}`)
          else if (how === 'key') lines[line] = before.replace(/[A-Za-z]+:/, `${text}:`)
          else if (how === 'drop') lines[line] = ''
          else if (how === 'twice') lines[line] = `${before}\n${before}`
          else if (how === 'indent') lines[line] = `  ${before}`
          else lines[line] = `${before} ${text}`
        }
        load(lines.join('\n'))
      }),
      parameters(60, 0.05),
    )
  })

  it('of any values under any keys', { timeout: FUZZ_TIMEOUT_MS }, () => {
    const key = fc.constantFrom(
      'version', 'server', 'routes', 'upstreams', 'app', 'match', 'path', 'pathPrefix', 'endpoints', 'url', 'admission', 'tiers', 'identity',
      'jwt', 'rateLimits', 'cache', 'headers', 'set', '__proto__', 'constructor', 'toString', 'length', '', '0',
    ) // biome-ignore format: a list
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        odd,
        fc.integer(),
        fc.boolean(),
        fc.constant(null),
        fc.array(tie('value'), { maxLength: 3 }),
        tie('object'),
      ),
      object: fc.array(fc.tuple(key, tie('value')), { maxLength: 4 }).map((pairs) => {
        const text = pairs.map(([name, inner]) => `${JSON.stringify(name)}: ${JSON.stringify(inner)}`)
        return JSON.parse(`{${text.join(',')}}`) as unknown
      }),
    }))
    fc.assert(
      fc.property(value, (whole) => load(JSON.stringify(whole) ?? '')),
      parameters(200, 0.2),
    )
  })

  it('of any bytes', { timeout: FUZZ_TIMEOUT_MS }, () => {
    fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 200 }), load), parameters(200, 0.2))
  })

  it.each([
    [
      'aliases of aliases (billion laughs)',
      `a: &a [x,x,x,x,x,x,x,x,x]\n${'bcdefghi'.replace(/./g, (c) => `${c}: &${c} [${`*${String.fromCharCode(c.charCodeAt(0) - 1)},`.repeat(9)}]\n`)}`,
    ],
    ['an alias of itself', 'a: &a { b: *a }\nversion: *a'],
    ['lists in lists, thousands deep', '['.repeat(5000)],
    ['maps in maps, thousands deep', '{a: '.repeat(5000)],
    ['a key of a megabyte', `${'k'.repeat(1_000_000)}: 1`],
    ['a thousand unknown keys', Array.from({ length: 1000 }, (_, i) => `k${i}: 1`).join('\n')],
    ['a prototype', '__proto__: { polluted: 1 }\nconstructor: { prototype: { polluted: 1 } }'],
    [
      'values of other types',
      'version: !!binary MQ==\nroutes: !!set {a, b}\nserver: !!omap [a: 1]\ncache: !!pairs [a: 1]',
    ],
    ['many documents', '---\na: 1\n'.repeat(1000)],
  ])('of %s', (_title, text) => {
    const before = process.cpuUsage()
    load(text)
    const { user, system } = process.cpuUsage(before)
    // Generous: reading a config is no request. What multiplies its bytes would take minutes, or all memory.
    expect((user + system) / 1000).toBeLessThan(15_000)
    expect(({} as { polluted?: number }).polluted).toBeUndefined()
  })
})

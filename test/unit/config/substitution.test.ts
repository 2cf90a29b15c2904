// biome-ignore-all lint/suspicious/noTemplateCurlyInString: references of the config file look like that
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parseConfig } from '../../../src/config/load.ts'
import { retype, shield, substitute, unshield } from '../../../src/config/substitution.ts'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fluxor-substitution-'))
  writeFileSync(join(folder, 'secret'), 'line\n')
})
afterAll(() => rmSync(folder, { recursive: true }))

function run(text: string, env: Record<string, string> = {}) {
  const problems: string[] = []
  const files = new Set<string>()
  const value = substitute(text, { env, directory: folder, files }, (message) => problems.push(message))
  return { value, problems, files: [...files] }
}

describe('variables in a config', () => {
  it.each([
    ['${A}', 'a'],
    ['x${A}y${A}', 'xaya'],
    ['${NONE:-b}', 'b'],
    ['${EMPTY:-b}', 'b'],
    ['${EMPTY}', ''],
    ['${A:-b}', 'a'],
    ['${NONE:-http://h:1/?a=b,c}', 'http://h:1/?a=b,c'],
    ['${NONE:-}', ''],
    ['${A:?needed}', 'a'],
    ['$$5 and $$${A}', '$5 and $a'],
    ['$A $5 $', '$A $5 $'],
    ['${file:secret}', 'line'],
  ])('makes %s into %s', (text, expected) => {
    expect(run(text, { A: 'a', EMPTY: '' })).toMatchObject({ value: expected, problems: [] })
  })

  it.each([
    ['${NONE}', /NONE is not set/],
    ['${NONE:?say it}', /NONE is not set: say it/],
    ['${EMPTY:?}', /EMPTY is not set$/],
    ['${9}', /not a reference/],
    ['${A-b}', /not a reference/],
    ['${}', /not a reference/],
    ['${A', /without the closing one/],
    ['${file:nowhere}', /nowhere cannot be read \(ENOENT\)/],
    ['${__proto__}', /__proto__ is not set/],
    ['${constructor}', /constructor is not set/],
  ])('refuses %s', (text, expected) => {
    expect(run(text, { A: 'a', EMPTY: '' }).problems).toEqual([expect.stringMatching(expected)])
  })

  it('remembers the files it read, also those that are missing', () => {
    expect(run('${file:secret} ${file:/nowhere}').files).toEqual([join(folder, 'secret'), '/nowhere'])
  })

  it('does not look into what a variable holds', () => {
    expect(run('${A}', { A: '${B} $$', B: 'b' }).value).toBe('${B} $$')
  })

  it('never lets a variable change more than its own value', () => {
    const text = 'version: 1\nroutes:\n  - { match: { path: /a }, respond: { body: ${V}, status: 200 } }\n'
    fc.assert(
      fc.property(
        fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('}, upstream: x', 'a\nb: c', '# x', '*a', '"')),
        (value) => {
          const { config } = parseConfig(text, 'gateway.yaml', { V: value })
          expect(config.routes).toHaveLength(1)
          expect(config.routes[0]!.respond).toEqual({ body: value, status: 200, headers: {} })
        },
      ),
    )
  })

  it('may stand inside braces and brackets without quotes', () => {
    const text =
      'version: 1\nserver: { threads: ${N}, listen: [{ address: 127.0.0.1:${P:-8080} }] }\nroutes: [{ home: {} }]\n'
    const { server } = parseConfig(text, 'gateway.yaml', { N: '4' }).config
    expect(server).toMatchObject({ threads: 4, listen: [{ address: { host: '127.0.0.1', port: 8080 } }] })
  })

  it('hides references from the YAML parser without moving anything', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('${', '}', 'a', ':-', ', ', '[', '#', '"', '\n', 'é', '😀')), (parts) => {
        const text = parts.join('')
        expect(shield(text)).toHaveLength(text.length)
        expect(unshield(shield(text))).toBe(text)
      }),
    )
  })
})

describe('the value of a plain scalar', () => {
  it.each([
    ['8080', 8080],
    ['-1.5e3', -1500],
    ['0x1f', 31],
    ['0o17', 15],
    ['true', true],
    ['False', false],
    ['null', null],
    ['', null],
    ['yes', 'yes'],
    ['1.2.3', '1.2.3'],
    ['10s', '10s'],
  ])('of %s is that of YAML 1.2', (text, expected) => {
    expect(retype(text)).toBe(expected)
  })
})

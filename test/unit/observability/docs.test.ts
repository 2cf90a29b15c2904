import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { LOCAL_REPLIES } from '../../../src/local-reply.ts'
import { SCALARS, SERIES } from '../../../src/shared/metrics.ts'

const root = new URL('../../../', import.meta.url)
const read = (file: string) => readFileSync(new URL(file, root), 'utf8')

const sources = readdirSync(new URL('src', root), { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => ({ name, text: read(`src/${name}`) }))

/** Every reason that the sources can give, wherever it is declared. */
function reasons(): Set<string> {
  const found = new Set<string>()
  for (const { name, text } of sources) {
    if (name.startsWith('loadtest') || name === 'explain.ts') continue
    for (const [, reason] of text.matchAll(/reason: '([A-Z][A-Z0-9_]+)'/g)) found.add(reason!)
  }
  const admission = /type AdmissionReason =([^\n]*(?:\n {2}\|[^\n]*)*)/.exec(
    read('src/policies/admission/policy.ts'),
  )![1]!
  for (const [, reason] of admission.matchAll(/'([A-Z_]+)'/g)) found.add(reason!)
  const jwt = /const REASONS = \{(.*?)\}/s.exec(read('src/policies/auth/jwt.ts'))![1]!
  for (const [, reason] of jwt.matchAll(/(JWT_[A-Z_]+):/g)) found.add(reason!)
  return found
}

describe('docs/errors.md', () => {
  const page = read('docs/errors.md')
  const sections = new Map(
    page.split(/^<a id="/m).slice(1).map((part) => [/^## (\S+)$/m.exec(part)![1]!, part]),
  ) // biome-ignore format: short

  it.each(Object.entries(LOCAL_REPLIES))('has a section on %s with its anchor and status', (code, { status }) => {
    const section = sections.get(code)
    expect(section, `a section "## ${code}"`).toBeDefined()
    expect(section!.slice(0, section!.indexOf('"'))).toBe(code.toLowerCase().replaceAll('_', '-'))
    expect(section).toContain(`**${status}**`)
    expect(page).toContain(`](#${code.toLowerCase().replaceAll('_', '-')})`)
  })

  it('has no section on a code that is no more', () => {
    expect([...sections.keys()].filter((code) => !Object.hasOwn(LOCAL_REPLIES, code))).toEqual([])
  })

  it('explains every reason, and none that is no more', () => {
    const documented = new Set([...page.matchAll(/^\| `([A-Z][A-Z0-9_]+)` \|/gm)].map(([, reason]) => reason!))
    const known = reasons()
    expect(known.size).toBeGreaterThan(15)
    expect([...known].filter((reason) => !documented.has(reason))).toEqual([])
    expect([...documented].filter((reason) => !known.has(reason))).toEqual([])
  })
})

describe('docs/metrics.md', () => {
  const page = read('docs/metrics.md')
  const documented = new Set([...page.matchAll(/^\| `([a-z_]+)(?:\{[^`]*\})?` \|/gm)].map(([, name]) => name!))

  it('has every metric that the sources name', () => {
    const named = new Set<string>()
    for (const { name, text } of sources) {
      if (name.startsWith('loadtest')) continue
      for (const [, metric] of text.matchAll(/'((?:fluxor|process|nodejs|http)_[a-z0-9_]+[a-z0-9])'/g))
        named.add(metric!)
    }
    for (const { metric } of Object.values(SCALARS)) named.add(metric)
    for (const name of Object.keys(SERIES)) named.add(name)
    named.delete('fluxor_session') // a cookie
    expect([...named].filter((name) => !documented.has(name))).toEqual([])
  })
})

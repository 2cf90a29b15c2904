/** The pages of the repository: links that lead somewhere, a reference that is current, examples in them that work. */

import { existsSync, globSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { describe, expect, it } from 'vitest'
import { referencePage } from '../../scripts/reference.ts'
import { advise } from '../../src/config/advisor.ts'
import { jsonSchema } from '../../src/config/json-schema.ts'
import { parseConfig } from '../../src/config/load.ts'
import { root } from './packed.ts'

const pages = globSync(['*.md', 'docs/**/*.md', 'loadtest/*.md', 'bench/*.md'], { cwd: root })
const read = (page: string) => readFileSync(join(root, page), 'utf8')

/** As GitHub makes them of headings. */
function anchors(markdown: string): Set<string> {
  const seen = new Set<string>()
  for (const [, heading] of withoutCode(markdown).matchAll(/^#{1,6}\s+(.*)$/gm)) {
    const plain = heading!.replace(/`|\[([^\]]*)\]\([^)]*\)/g, '$1')
    seen.add(
      plain
        .toLowerCase()
        .replace(/[^\p{L}\p{N}\s_-]/gu, '')
        .replace(/\s/g, '-'),
    )
  }
  for (const [, id] of markdown.matchAll(/\bid="([^"]+)"/g)) seen.add(id!)
  return seen
}

function withoutCode(markdown: string): string {
  return markdown.replace(/^```[\s\S]*?^```/gm, '')
}

function linksOf(page: string): string[] {
  const markdown = withoutCode(read(page)).replace(/`[^`\n]*`/g, '')
  const links = /\]\(([^)\s]+)(?:\s+"[^"]*")?\)|\b(?:src|href)="([^"]+)"/g
  return [...markdown.matchAll(links)].map(([, target, attribute]) => target ?? attribute!)
}

describe('pages', () => {
  for (const page of pages) {
    it(`${page}: every link leads somewhere`, () => {
      const broken: string[] = []
      for (const link of linksOf(page)) {
        if (/^(?:https:|mailto:|http:\/\/(?:127\.0\.0\.1|localhost))/.test(link)) continue
        const [path, anchor] = link.split('#')
        const file = path === '' ? page : relative(root, join(root, dirname(page), path!))
        if (!existsSync(join(root, file))) broken.push(link)
        else if (anchor !== undefined && file.endsWith('.md') && !anchors(read(file)).has(anchor)) broken.push(link)
      }
      expect(broken).toEqual([])
    })
  }

  it('can be found: the index names every page of docs/', () => {
    const linked = new Set(linksOf('docs/README.md').map((link) => link.split('#')[0]))
    const missing = globSync('*.md', { cwd: join(root, 'docs') }).filter(
      (page) => page !== 'README.md' && !linked.has(page),
    )
    expect(missing).toEqual([])
  })

  it('show configs that are accepted, also by the advisor', () => {
    let seen = 0
    for (const page of pages) {
      for (const [, yaml] of read(page).matchAll(/^```yaml\n([\s\S]*?)^```/gm)) {
        if (!/^version: 1$/m.test(yaml!) || !/^routes:/m.test(yaml!)) continue
        seen++
        const { config, warnings } = parseConfig(yaml!, page, {})
        expect([...warnings, ...advise(config)], page).toEqual([])
      }
    }
    expect(seen).toBeGreaterThanOrEqual(2)
  })
})

describe('docs/reference.md', () => {
  it('is what npm run docs makes', () => {
    expect(read('docs/reference.md')).toBe(referencePage())
  })

  it('says what every key means', () => {
    const bare = read('docs/reference.md')
      .split('\n')
      .filter((line) => /^\| `.*\|\s*\|$/.test(line))
    expect(bare).toEqual([])
  })

  it('has every key of the schema', () => {
    const page = read('docs/reference.md')
    const keys = new Set<string>()
    const visit = (node: unknown): void => {
      if (typeof node !== 'object' || node === null) return
      const { properties, ...rest } = node as { properties?: Record<string, unknown> }
      for (const [key, child] of Object.entries(properties ?? {})) {
        keys.add(key)
        visit(child)
      }
      for (const child of Object.values(rest)) visit(child)
    }
    visit(jsonSchema())
    expect([...keys].filter((key) => !new RegExp(`[\`.]${key}\`|^## ${key}$`, 'm').test(page))).toEqual([])
  })
})

import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { blocksOf, erlangLoss, pieceMarkdown, replaceBlock, tableText } from '../../../scripts/report/document.ts'
import { lognormalMean, SECTIONS } from '../../../scripts/report/sections.ts'

const page = readFileSync(new URL('../../../docs/performance.md', import.meta.url), 'utf8')

describe('docs/performance.md', () => {
  it('has a place for each section of the report, and no other', () => {
    expect(blocksOf(page).toSorted()).toEqual(['machine', ...Object.keys(SECTIONS)].toSorted())
  })

  it('keeps what was written by hand when a section is measured again', () => {
    const once = replaceBlock(page, 'load', 'new figures\n')
    expect(once).toContain('<!-- report:load -->\nnew figures\n<!-- /report:load -->')
    expect(replaceBlock(once, 'load', 'new figures')).toBe(once)
    const byHand = (text: string) => text.replace(/<!-- report:load -->[\s\S]*<!-- \/report:load -->/, '')
    expect(byHand(once)).toBe(byHand(page))
    expect(() => replaceBlock(page, 'weather', '')).toThrow(/no block <!-- report:weather -->/)
  })
})

describe('a section', () => {
  it('stands under the command that made it', () => {
    const text = pieceMarkdown('load', {
      commands: ['fluxor-gateway loadtest --rate 5'],
      tables: [
        {
          about: 'What came of it:',
          rows: [
            ['', 'p50 | p95'],
            ['now', '1 ms'],
          ],
        },
      ],
      notes: ['A note.'],
      checks: [],
    })
    expect(text).toBe(
      '`npm run report -- load`\n\n```sh\nfluxor-gateway loadtest --rate 5\n```\n\nWhat came of it:\n\n' +
        '|  | p50 \\| p95 |\n|---|---|\n| now | 1 ms |\n\nA note.',
    )
  })

  it('is aligned in a terminal', () => {
    expect(
      tableText([
        ['', 'p50'],
        ['a load', '1 ms'],
      ]),
    ).toBe('         p50\na load  1 ms')
  })
})

describe('what theory expects', () => {
  it('is the loss of Erlang', () => {
    expect(erlangLoss(1, 1)).toBe(0.5)
    expect(erlangLoss(2, 2)).toBeCloseTo(0.4, 10)
    expect(erlangLoss(100, 100)).toBeCloseTo(0.0757, 4)
    expect(erlangLoss(134, 200)).toBeLessThan(1e-7)
  })

  it('is the mean of a lognormal distribution', () => {
    expect(lognormalMean(80, 80)).toBe(80)
    expect(lognormalMean(20, 120)).toBeCloseTo(26.9, 1)
  })
})

import { describe, expect, it } from 'vitest'
import { parseConfig } from '../../../src/config/load.ts'
import { ConfigError, countOf, firstOf, formatProblem, type Problem } from '../../../src/config/problems.ts'

const times = (count: number, line: (i: number) => string) =>
  Array.from({ length: count }, (_, i) => line(i)).join('\n')

/** Files that only grow in one way. */
const FILES: Record<string, [size: number, text: (n: number) => string]> = {
  'unknown keys': [1500, (n) => `version: 1\nroutes: [{ home: {} }]\n${times(n, (i) => `unknown${i}: 1`)}\n`],
  'keys that stand there twice': [
    1500,
    (n) => `version: 1\nroutes: [{ home: {} }]\n${times(n, (i) => `twice${i >> 1}: 1`)}\n`,
  ],
  'routes to upstreams that are not there': [
    300,
    (n) =>
      `version: 1\nroutes:\n${times(n, (i) => `  - { match: { path: /${i} }, upstream: no${i} }`)}
upstreams:\n${times(n, (i) => `  up${i}: { endpoints: [{ url: "http://127.0.0.1:1" }] }`)}\n`,
  ],
  'mistakes in entries of their own': [
    500,
    (n) => `version: 1\nroutes: [{ home: {} }]\nupstreams:\n${times(n, (i) => `  up${i}: { endponts: [] }`)}\n`,
  ],
  'routes that are alike': [
    500,
    (n) => `version: 1\nroutes:\n${times(n, () => '  - { match: { path: /a }, home: {} }')}\n`,
  ],
  'aliases of their own': [
    300,
    (n) =>
      `version: 1\nroutes:\n${times(n, (i) => `  - { match: &m${i} { pat: /${i} }, home: {} }\n  - { match: *m${i}, home: {} }`)}\n`,
  ],
}

function problemsOf(text: string): readonly Problem[] {
  try {
    return parseConfig(text, 'gateway.yaml', {}).warnings
  } catch (error) {
    if (error instanceof ConfigError) return error.problems
    throw error
  }
}

/** Microseconds of this thread: waiting for others on the machine is none of it. The better of two. */
function cost(text: string): number {
  let best = Number.POSITIVE_INFINITY
  for (let i = 0; i < 2; i++) {
    const before = process.threadCpuUsage()
    problemsOf(text)
    best = Math.min(best, process.threadCpuUsage(before).user)
  }
  return best
}

describe('a large config', () => {
  it.each(Object.entries(FILES))(
    'with %s costs four times as much when it is four times as long',
    (_, [size, file]) => {
      // 4 when linear, 16 when every entry is compared with every other one.
      expect(cost(file(4 * size)) / cost(file(size))).toBeLessThan(9)
    },
  )

  it('tells the first hundred problems of it, with what may have been meant, and how many more there are', () => {
    const problems = problemsOf(
      `version: 1\nroutes: [{ home: {} }]\nadmission:\n${times(250, (i) => `  maxCCU${i}: 1`)}\n`,
    )
    expect(problems).toHaveLength(101)
    expect(problems[99]).toMatchObject({ line: 103, path: 'admission.maxCCU99' })
    expect(problems[99]!.message).toContain('Did you mean "maxCCU"?')
    expect(formatProblem(problems[100]!)).toBe('gateway.yaml  … and 150 more')
    expect(countOf(problems)).toBe(250)
  })

  it('names a few of many upstreams where one is not known', () => {
    const upstreams = times(50, (i) => `  service${i}: { endpoints: [{ url: "http://127.0.0.1:1" }] }`)
    const [first] = problemsOf(`version: 1\nroutes: [{ upstream: nothing-like-it }]\nupstreams:\n${upstreams}\n`)
    expect(first!.message).toMatch(/^unknown upstream "nothing-like-it"\. Known: service0, .*, service11 and 38 more$/)
  })
})

it('a list of problems is not cut for the sake of one', () => {
  const problem: Problem = { severity: 'error', file: 'f', line: 1, column: 1, path: '', message: 'm' }
  expect(firstOf(Array(101).fill(problem))).toHaveLength(101)
  expect(countOf(firstOf(Array(101).fill(problem)))).toBe(101)
  expect(countOf(firstOf(Array(102).fill(problem)))).toBe(102)
})

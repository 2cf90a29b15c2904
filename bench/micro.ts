/** Every mechanism of a request by its name: a regression of the whole is looked for here. */

import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Question } from './harness/question.ts'
import { PROXY_CORE } from './harness/subjects.ts'
import type { Suite } from './micro/timing.ts'

const ALL = fileURLToPath(new URL('micro/all.ts', import.meta.url))
const TIMEOUT_MS = 300_000

export const question: Question = {
  asks: 'what do the mechanisms of a request cost, each by itself?',
  async measure() {
    const command = ['-c', `${PROXY_CORE}`, process.execPath, ALL, '--json']
    const suites = JSON.parse(execFileSync('taskset', command, { encoding: 'utf8', timeout: TIMEOUT_MS })) as Suite[]
    return {
      rows: [
        ['', '', 'ns/op, best', 'median'],
        ...suites.flatMap(({ name, timings }) =>
          timings.map(({ what, bestNs, medianNs }) => [name, what, bestNs.toFixed(1), medianNs.toFixed(1)]),
        ),
      ],
      verdicts: [],
      notes: suites.flatMap(({ notes }) => notes),
    }
  },
}

/**
 * `npm run bench [names…] [--rounds 7] [--seconds 4] [--json FILE]`: asks the questions of this folder, all or those named,
 * prints machine, versions, figures and whether each goal is met; exits 1 when one is not.
 */

import { execFileSync } from 'node:child_process'
import { globSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { findOnPath } from '../test/support/services.ts'
import { type ComparisonResult, compare, type RunOptions, type Verdict } from './harness/compare.ts'
import type { Figures, Question } from './harness/question.ts'
import { machine, printComparison, printMachine, printTable, printVerdict, printVerdicts } from './harness/report.ts'

const here = fileURLToPath(new URL('.', import.meta.url))
const known = globSync('*.ts', { cwd: here })
  .map((file) => basename(file, '.ts'))
  .filter((name) => name !== 'run')
  .sort()

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '7' },
    seconds: { type: 'string', default: '4' },
    json: { type: 'string' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})

const options: RunOptions = {
  rounds: wholeNumber(values.rounds, '--rounds'),
  seconds: wholeNumber(values.seconds, '--seconds'),
}
if (values.help) {
  console.log(`npm run bench -- [${known.join('|')} …] [--rounds 7] [--seconds 4] [--json FILE]`)
  process.exit(0)
}
const unknown = positionals.filter((name) => !known.includes(name))
if (unknown.length > 0) usage(`no bench called ${unknown.join(', ')}; there are ${known.join(', ')}`)
for (const program of ['taskset', 'wrk', 'nginx'])
  if (!findOnPath(program)) usage(`${program} is needed and not on PATH`)
if (availableParallelism() < 2) usage('two cores are needed: one for what is measured, one for load and upstream')

execFileSync(process.execPath, [fileURLToPath(new URL('../scripts/build.ts', import.meta.url))], { stdio: 'inherit' })

type Answer = ComparisonResult | Figures
const answers: Record<string, { asks: string; parts: Answer[] }> = {}
const verdicts: [bench: string, verdict: Verdict][] = []
printMachine(options)
const startedMs = performance.now()
for (const name of positionals.length > 0 ? positionals : known) {
  const { question } = (await import(`./${name}.ts`)) as { question: Question }
  console.log(`\n${name}: ${question.asks}`)
  const parts: Answer[] = []
  answers[name] = { asks: question.asks, parts }
  const own: Verdict[] = []
  try {
    for (const comparison of [question.compare ?? []].flat()) {
      const result = await compare(comparison, options)
      printComparison(result, comparison.baseline)
      parts.push(result)
      own.push(...result.verdicts)
    }
    if (question.measure !== undefined) {
      const figures = await question.measure(options)
      printTable(figures.rows)
      for (const note of figures.notes ?? []) console.log(note)
      parts.push(figures)
      own.push(...figures.verdicts)
    }
  } catch (error) {
    own.push({ text: 'it answers', found: (error as Error).message.split('\n')[0], met: false })
    console.error((error as Error).stack)
  }
  for (const verdict of own) printVerdict(verdict)
  verdicts.push(...own.map((verdict): [string, Verdict] => [name, verdict]))
  writeJson()
}
console.log(`\nall goals, after ${((performance.now() - startedMs) / 60_000).toFixed(1)} minutes`)
printMachine(options)
printVerdicts(verdicts)
process.exitCode = verdicts.some(([, { met }]) => met === false) ? 1 : 0

/** After each question: a run that is broken off keeps what it has. */
function writeJson(): void {
  if (values.json === undefined) return
  const run = { date: new Date().toISOString(), machine: machine(), options, answers, verdicts }
  writeFileSync(values.json, `${JSON.stringify(run, null, 2)}\n`)
}

function wholeNumber(text: string, name: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1 || value > 1000) usage(`${name} must be a whole number from 1 to 1000`)
  return value
}

function usage(message: string): never {
  console.error(message)
  process.exit(64)
}

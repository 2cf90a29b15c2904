/**
 * `npm run report [-- names…] [--quick] [--no-build]`: measures the tables of docs/performance.md, all or those named, and writes
 * each between its markers there; what is written by hand stays. The gateway has one core, load and service another. Ends within
 * twelve minutes, with a summary; exits 1 when something that must hold did not, and leaves that section as it was.
 * `--quick` is a smoke run: a tenth of the time and the load, writes nothing.
 */

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { machine } from '../bench/harness/report.ts'
import { GATEWAY_MAIN, LOAD_CORE, PROXY_CORE } from '../bench/harness/subjects.ts'
import { VERSION } from '../src/version.ts'
import { findOnPath } from '../test/support/services.ts'
import { type Check, pieceMarkdown, replaceBlock, tableText } from './report/document.ts'
import { SECTIONS } from './report/sections.ts'
import { Stage } from './report/stage.ts'

const PAGE = fileURLToPath(new URL('../docs/performance.md', import.meta.url))
/** No run begins after this; the longest takes under a minute and a half. */
const LONGEST_MS = 10.5 * 60_000

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    /** Measures dist as it is. */
    'no-build': { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
const known = Object.keys(SECTIONS)
if (values.help) {
  console.log(`npm run report [-- ${known.join('|')} …] [--quick] [--no-build]`)
  process.exit(0)
}
const unknown = positionals.filter((name) => !known.includes(name))
if (unknown.length > 0) usage(`no section called ${unknown.join(', ')}; there are ${known.join(', ')}`)
if (!findOnPath('taskset')) usage('taskset is needed and not on PATH')
if (availableParallelism() < 2) usage('two cores are needed: one for the gateway, one for load and service')
if (!values['no-build'] || !existsSync(GATEWAY_MAIN)) {
  const build = fileURLToPath(new URL('build.ts', import.meta.url))
  if (spawnSync(process.execPath, [build], { stdio: 'inherit' }).status !== 0) process.exit(1)
}

const { cpu, memory, kernel, node } = machine()
const where =
  `Fluxor Gateway ${VERSION}, Node ${node}, ${kernel}, ${cpu}, ${memory}; ${new Date().toISOString().slice(0, 10)}. ` +
  `The gateway had core ${PROXY_CORE}, generator and service core ${LOAD_CORE}, all on loopback.`
console.log(where)

const pace = { quick: values.quick, endMs: performance.now() + LONGEST_MS }
const beganMs = performance.now()
let page = readFileSync(PAGE, 'utf8')
const outcomes: { name: string; checks: readonly Check[]; written: boolean }[] = []
for (const name of known.filter((one) => positionals.length === 0 || positionals.includes(one))) {
  console.log(`\n${name}`)
  const stage = new Stage(pace)
  try {
    const piece = await SECTIONS[name]!(stage)
    for (const { about, rows } of piece.tables) console.log(`${about ? `${about}\n` : ''}${tableText(rows)}`)
    for (const note of piece.notes) console.log(note)
    const written = !values.quick && piece.checks.every(({ met }) => met)
    if (written) page = replaceBlock(page, name, pieceMarkdown(name, piece))
    outcomes.push({ name, checks: piece.checks, written })
  } catch (error) {
    outcomes.push({ name, checks: [{ text: `${name}: ${(error as Error).message}`, met: false }], written: false })
    console.log(`no figures: ${(error as Error).message}`)
  } finally {
    await stage.close()
  }
}
if (outcomes.some(({ written }) => written)) writeFileSync(PAGE, replaceBlock(page, 'machine', where))

console.log(`\nSummary, after ${((performance.now() - beganMs) / 60_000).toFixed(1)} min`)
for (const { name, checks, written } of outcomes) {
  const unmet = checks.filter(({ met }) => !met)
  const page = written ? 'written' : values.quick ? 'not written (--quick)' : 'left as it was'
  console.log(
    `${unmet.length === 0 ? 'met    ' : 'NOT MET'}  ${name}: ${checks.length - unmet.length} of ${checks.length} checks, ${page}`,
  )
  for (const { text } of unmet) console.log(`           ${text}`)
}
process.exitCode = outcomes.every(({ checks }) => checks.every(({ met }) => met)) ? 0 : 1

function usage(message: string): never {
  console.error(message)
  process.exit(64)
}

/** The price of an HS256 token, in process, without HTTP: the endpoint's handler against node:crypto's floor and golang-jwt. */

import { execFileSync } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { findOnPath } from '../test/support/services.ts'
import { judgeRatios, median, type RunOptions, spreadOf, type Verdict } from './harness/compare.ts'
import type { Figures, Question } from './harness/question.ts'
import { builtGo, firstLine, PROXY_CORE } from './harness/subjects.ts'

const SECRET = 'a-secret-for-the-bench-only-32-bytes!'
const CLAIMS = { iss: 'fluxor', aud: 'api', sub: 'bench' }
const mintToken = fileURLToPath(new URL('peers/mint-token.ts', import.meta.url))

interface Maker {
  name: string
  command: string[]
  env: Record<string, string>
}

/** CPU time per token in nanoseconds. Throws unless the token is what was asked for. */
function measureMaker({ name, command, env }: Maker, seconds: number): number {
  const text = execFileSync('taskset', ['-c', `${PROXY_CORE}`, ...command], {
    encoding: 'utf8',
    env: { ...process.env, SECRET, SECONDS: `${seconds}`, ...env },
    timeout: (seconds + 20) * 1000,
  })
  const { nsPerToken, token } = JSON.parse(text) as { nsPerToken: number; token: string }
  const [header, payload, signature] = token.split('.') as [string, string, string]
  const right = createHmac('sha256', SECRET).update(`${header}.${payload}`).digest('base64url')
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown>
  const nowSec = Date.now() / 1000
  const asked = Object.entries(CLAIMS).every(([claim, value]) => claims[claim] === value)
  if (signature !== right || !asked || !(Number(claims['exp']) > nowSec + 3000) || !(Number(claims['iat']) <= nowSec))
    throw new Error(`${name} made a wrong token: ${token}`)
  return nsPerToken
}

async function measure({ rounds, seconds }: RunOptions): Promise<Figures> {
  const node = (name: string, what: string) => ({ name, command: [process.execPath, mintToken], env: { WHAT: what } })
  const own = node('Fluxor Gateway, token endpoint', 'gateway')
  const floor = node('node:crypto, the HMAC alone', 'floor')
  const makers: Maker[] = [own, floor]
  const notes = [`CPU time per token, medians of the rounds; ratio to ${floor.name}; node ${process.version}`]
  let go: Maker | undefined
  try {
    if (findOnPath('go') === undefined) throw new Error('there is no go on this machine')
    go = { name: 'golang-jwt', command: [builtGo('golang-jwt')], env: { GOMAXPROCS: '1' } }
    makers.push(go)
    notes.push(`${firstLine('go', 'version')}; golang-jwt as in bench/peers/golang-jwt/go.mod`)
  } catch (error) {
    notes.push(`left out: golang-jwt: ${(error as Error).message}`)
  }
  const samples = new Map<Maker, number[]>(makers.map((maker) => [maker, []]))
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < makers.length; turn++) {
      const maker = makers[(turn + round) % makers.length]!
      samples.get(maker)!.push(measureMaker(maker, seconds))
    }
    process.stderr.write(`  round ${round + 1}/${rounds}\n`)
  }
  const ratios = (maker: Maker, versus: Maker) => samples.get(maker)!.map((ns, i) => ns / samples.get(versus)![i]!)
  const goal = (versus: Maker | undefined, name: string, atMost: number): Verdict => {
    const text = `an HS256 token costs at most ${atMost.toFixed(2)}x of ${name}`
    if (versus === undefined) return { text, found: 'not on this machine', met: undefined }
    return judgeRatios(text, ratios(own, versus), atMost)
  }
  return {
    rows: [
      ['', 'ns/token', 'ratio'],
      ...makers.map((maker) => [maker.name, median(samples.get(maker)!).toFixed(0), spreadOf(ratios(maker, floor))]),
    ],
    verdicts: [goal(floor, 'node:crypto', 1.1), goal(go, 'golang-jwt', 1.2)],
    notes,
  }
}

export const question: Question = { asks: 'what does it cost to make an HS256 token?', measure }

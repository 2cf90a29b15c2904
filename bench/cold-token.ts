/**
 * A token that was never seen before, with RS256: what its check costs a request, against the bare signature check by
 * node:crypto. A peak of new users is made of such requests.
 */

import { generateKeyPairSync, sign, verify } from 'node:crypto'
import { startGateway, type TestGateway } from '../test/support/gateway.ts'
import { sendAll } from './harness/pipelined.ts'
import { usageOfTree } from './harness/process-tree.ts'
import type { Figures, Question } from './harness/question.ts'
import { GATEWAY_MAIN, PROXY_CORE } from './harness/subjects.ts'

/** For each round; signing one takes about a millisecond. */
const TOKENS = Number(process.env['COLD_TOKENS'] ?? 3000)
/** Requests before the first round: compiled code is measured. */
const WARM_UP = TOKENS
const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
const HEADER = part({ alg: 'RS256', typ: 'JWT' })
let made = 0

function mint(count: number): string[] {
  const exp = Math.floor(Date.now() / 1000) + 86_400
  return Array.from({ length: count }, () => {
    const text = `${HEADER}.${part({ sub: `user-${made++}`, iss: 'fluxor', aud: 'api', exp })}`
    return `${text}.${sign('RSA-SHA256', Buffer.from(text), privateKey).toString('base64url')}`
  })
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!

/** CPU µs of the gateway for each request with one of these tokens. */
async function costOf({ pid, port }: TestGateway, tokens: readonly string[]): Promise<number> {
  const used = () => {
    const { userMs, systemMs } = usageOfTree(pid)
    return userMs + systemMs
  }
  const before = used()
  const textOf = (n: number) => `GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer ${tokens[n]}\r\n\r\n`
  await sendAll(port, tokens.length, textOf)
  return ((used() - before) * 1000) / tokens.length
}

/** CPU µs of node:crypto for the signature of each. */
function floorOf(tokens: readonly string[]): number {
  const signed = tokens.map((token) => {
    const at = token.lastIndexOf('.')
    return [Buffer.from(token.slice(0, at)), Buffer.from(token.slice(at + 1), 'base64url')] as const
  })
  const start = process.cpuUsage()
  for (const [text, signature] of signed)
    if (!verify('RSA-SHA256', text, publicKey, signature)) throw new Error('a signature is wrong')
  const { user, system } = process.cpuUsage(start)
  return (user + system) / tokens.length
}

async function measure({ rounds }: { rounds: number }): Promise<Figures> {
  const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string
  const answer = { match: { pathPrefix: '/' }, respond: { status: 204 } }
  const options = { main: GATEWAY_MAIN, wrap: ['taskset', '-c', `${PROXY_CORE}`] }
  const bare = await startGateway({ routes: [answer] }, options)
  const checking = await startGateway(
    {
      identity: { jwt: { main: { publicKey: pem, algorithms: ['RS256'], issuer: 'fluxor', audience: 'api' } } },
      routes: [{ ...answer, jwt: 'main' }],
    },
    options,
  )
  try {
    const refused = await fetch(checking.url, {
      headers: { authorization: `Bearer ${mint(1)[0]!.slice(0, -8)}AAAAAAAA` },
    })
    if (refused.status !== 401) throw new Error(`a token with another signature got ${refused.status}`)
    const first = mint(WARM_UP)
    for (const gateway of [bare, checking]) await costOf(gateway, first)
    floorOf(first)
    const costs = { floor: [] as number[], bare: [] as number[], cold: [] as number[], known: [] as number[] }
    for (let round = 0; round < rounds; round++) {
      const tokens = mint(TOKENS)
      costs.floor.push(floorOf(tokens))
      costs.bare.push(await costOf(bare, tokens))
      costs.cold.push(await costOf(checking, tokens))
      costs.known.push(await costOf(checking, tokens))
      process.stderr.write(`  round ${round + 1}/${rounds}: ${costs.cold.at(-1)!.toFixed(0)} µs\n`)
    }
    const [floor, without, cold, known] = [costs.floor, costs.bare, costs.cold, costs.known].map(median) as number[]
    const over = (cold! - without!) / floor!
    const row = (title: string, us: number, more?: number) => [title, us.toFixed(1), more?.toFixed(1) ?? '']
    return {
      rows: [
        ['', 'CPU µs', 'over bare'],
        row('request, bare', without!),
        row('request, new RS256 token', cold!, cold! - without!),
        row('request, token seen before', known!, known! - without!),
        row('node:crypto verify', floor!),
      ],
      verdicts: [],
      notes: [`a new token costs ${over.toFixed(2)} x its signature check by node:crypto`],
    }
  } finally {
    await bare.close()
    await checking.close()
  }
}

export const question: Question = { asks: 'what does a token cost that was never seen before?', measure }

import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { requireFiles } from '../../../src/commands/files.ts'
import { loadConfig } from '../../../src/config/load.ts'
import { ConfigError } from '../../../src/config/problems.ts'
import { type CertificateFiles, Certificates } from '../../support/certificates.ts'

let certificates: Certificates
let one: CertificateFiles
let two: CertificateFiles
beforeAll(() => {
  certificates = new Certificates()
  one = certificates.issue('one', 'one.test')
  two = certificates.issue('two', 'two.test')
  writeFileSync(join(certificates.folder, 'garbage'), 'garbage\n')
})
afterAll(() => certificates.remove())

function write(text: string): string {
  const file = join(certificates.folder, 'gateway.yaml')
  writeFileSync(file, `version: 1\nroutes: [{ home: {} }]\n${text}`)
  return file
}

/** `line:column path: message` of each. */
function problemsOf(text: string): string[] {
  const file = write(text)
  try {
    requireFiles(file, loadConfig(file))
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return error.problems.map(({ line, column, path, message }) => `${line}:${column} ${path}: ${message}`)
  }
  return []
}

const listener = (tls: string) => `server: { listen: [{ address: ":0", tls: ${tls} }] }\n`
const upstream = (tls: string) => `upstreams: { app: { endpoints: [{ url: "https://a" }], tls: ${tls} } }\n`

describe('files that a config names', () => {
  it('are no problem when they are what they should be, also by names relative to the config', () => {
    const pair = `cert: ${one.cert}, key: ${one.key}`
    expect(problemsOf(listener(`{ certificates: [{ ${pair} }], clientCa: ca.crt }`))).toEqual([])
    expect(problemsOf(upstream(`{ ca: ca.crt, ${pair} }`))).toEqual([])
    expect(problemsOf('redis: { main: { url: "rediss://a", tls: { ca: ca.crt } } }\n')).toEqual([])
  })

  it('of a listener are told at their keys, all at once', () => {
    const tls = `{ certificates: [{ cert: none.crt, key: ${one.key} }, { cert: ${one.cert}, key: ${two.key} }], clientCa: garbage }`
    expect(problemsOf(listener(tls))).toEqual([
      expect.stringMatching(/^3:\d+ server\.listen\[0\]\.tls\.certificates\[0\]\.cert: .*cannot be read: ENOENT/),
      expect.stringMatching(/^3:\d+ server\.listen\[0\]\.tls\.certificates\[1\]\.key: .*is not that of/),
      expect.stringMatching(/^3:\d+ server\.listen\[0\]\.tls\.clientCa: .*garbage holds no usable CA certificate/),
    ])
  })

  it.each([
    ['ca', '{ ca: none }', 'cannot be read: ENOENT'],
    ['ca', '{ ca: garbage }', 'holds no usable CA certificate'],
    ['cert', '{ cert: garbage, key: one.key }', 'holds no usable certificate'],
    ['key', '{ cert: one.crt, key: garbage }', 'holds no usable private key'],
    ['key', '{ cert: one.crt, key: two.key }', 'key values mismatch'],
  ])('of an upstream are told at %s: %s', (key, tls, message) => {
    const problems = problemsOf(upstream(tls))
    expect(problems).toHaveLength(1)
    expect(problems[0]).toContain(`upstreams.app.tls.${key}: `)
    expect(problems[0]).toContain(message)
  })

  it.each([
    ['identity.jwt.main.publicKey', 'identity: { jwt: { main: { publicKey: none, algorithms: [ES256] } } }'],
    ['identity.jwt.main.publicKey', 'identity: { jwt: { main: { publicKey: garbage, algorithms: [ES256] } } }'],
    ['identity.apiKeys.main.file', 'identity: { apiKeys: { main: { file: none } } }'],
    ['redis.main.tls.ca', 'redis: { main: { url: "rediss://a", tls: { ca: garbage } } }'],
  ])('are told at %s', (path, text) => {
    expect(problemsOf(`${text}\n`)).toEqual([expect.stringContaining(` ${path}: `)])
  })

  it.each([['check'], ['run']])('that cannot be used end %s with 78', (command) => {
    const main = join(import.meta.dirname, '../../../src/main.ts')
    const file = write(
      `server: { admin: false, listen: [{ address: "127.0.0.1:0", tls: { certificates: [{ cert: none.crt, key: one.key }] } }] }\n`,
    )
    const { status, stderr } = spawnSync(process.execPath, [main, command, '-c', file], { encoding: 'utf8' })
    expect(stderr).toContain(`${file}:3:90  server.listen[0].tls.certificates[0].cert: `)
    expect(status).toBe(78)
  })
})

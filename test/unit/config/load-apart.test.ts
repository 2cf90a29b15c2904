/** The same config and the same errors come from a process of its own as from a call. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { loadConfig, quickConfig } from '../../../src/config/load.ts'
import { loadApart } from '../../../src/config/load-apart.ts'
import { ConfigError } from '../../../src/config/problems.ts'

const folder = mkdtempSync(join(tmpdir(), 'fluxor-apart-'))
afterAll(() => rmSync(folder, { recursive: true }))

function file(text: string): string {
  const path = join(folder, 'gateway.yaml')
  writeFileSync(path, text)
  return path
}

const thrownBy = (load: () => unknown): ConfigError => {
  try {
    load()
  } catch (error) {
    return error as ConfigError
  }
  throw new Error('nothing was thrown')
}

describe('a config that is loaded apart', () => {
  it('is the one that a call gives, variables, warnings and files included', async () => {
    process.env['APART_URL'] = 'http://127.0.0.1:3000'
    const path = file(`
version: 1
server: { admin: { address: '0.0.0.0:0', token: a-token-of-some-length } }
identity: { jwt: { main: { secret: 'a-secret-of-more-than-thirty-two-bytes' } } }
upstreams: { app: { endpoints: [{ url: '\${APART_URL}' }] } }
routes: [{ match: { pathPrefix: / }, upstream: app, jwt: main }]
`)
    expect(await loadApart({ path })).toEqual(loadConfig(path))
  })

  it('has every problem in its error, worded alike', async () => {
    const path = file('version: 1\nadmision: 3\nroutes: [{ match: { pathPrefix: / }, upstream: nope }]\n')
    const error = await loadApart({ path }).catch((reason: unknown) => reason)
    const expected = thrownBy(() => loadConfig(path))
    expect(error).toBeInstanceOf(ConfigError)
    expect((error as ConfigError).message).toBe(expected.message)
    expect((error as ConfigError).problems).toEqual(expected.problems)
    expect(expected.problems.length).toBeGreaterThan(1)
  })

  it('is loaded here when there is no process to be had', async () => {
    const path = file('version: 1\nroutes: [{ match: { pathPrefix: / }, respond: { status: 204 } }]\n')
    const { execPath } = process
    process.execPath = join(folder, 'no-node')
    try {
      expect(await loadApart({ path })).toEqual(loadConfig(path))
    } finally {
      process.execPath = execPath
    }
  })

  it('may be the quick form', async () => {
    const quick = { upstream: '127.0.0.1:3000', listen: '127.0.0.1:8080', maxCcu: 7 }
    expect(await loadApart({ quick })).toEqual(quickConfig(quick))
    await expect(loadApart({ quick: { upstream: 'ftp://x' } })).rejects.toThrow('--upstream')
  })
})

/**
 * The files that a config names (certificates, keys, key sets): read as a start would, so that `check`, and a start that
 * failed, tell of all that cannot be used, each at its line. Keeps nothing of them.
 */

import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { CrossFinding } from '../config/cross-checks.ts'
import { type LoadedConfig, placeFindings } from '../config/load.ts'
import { ConfigError, firstOf, type Path } from '../config/problems.ts'
import { parseYaml } from '../config/yaml-text.ts'
import * as listenerTls from '../listener/tls.ts'
import { createKeySets } from '../policies/auth/key-sets.ts'
import * as upstreamTls from '../upstream/tls.ts'

/** Throws a `ConfigError` when a file cannot be used. @param path the config file */
export function requireFiles(path: string, { config, warnings }: LoadedConfig): void {
  const problems = placeFindings(path, fileFindings(config)).map(({ problem }) => problem)
  if (problems.length > 0) throw new ConfigError(firstOf(problems), warnings)
}

function fileFindings({ server, upstreams, identity, redis, baseDir }: LoadedConfig['config']): CrossFinding[] {
  const findings: CrossFinding[] = []
  const attempt = (path: Path, read: () => unknown) => {
    try {
      read()
    } catch (error) {
      const told = error as Error
      if (told instanceof listenerTls.TlsFileError) {
        findings.push({ severity: 'error', path: [...path, told.key], message: told.message })
      } else if (told instanceof upstreamTls.TlsFileError) {
        findings.push({ severity: 'error', path: [...path, told.key], message: told.reason })
      } else findings.push({ severity: 'error', path, message: told.message })
    }
  }

  server.listen.forEach(({ tls }, i) => {
    if (tls === undefined) return
    const at = ['server', 'listen', i, 'tls']
    if (tls.clientCa !== undefined) attempt(at, () => listenerTls.readClientCa(tls.clientCa!, baseDir))
    tls.certificates.forEach((files, n) => {
      attempt([...at, 'certificates', n], () => listenerTls.loadCertificate(files, tls, baseDir))
    })
  })
  for (const [name, { tls }] of Object.entries(upstreams)) {
    attempt(['upstreams', name, 'tls'], () => upstreamTls.readUpstreamTls(tls, baseDir, `upstreams.${name}.tls`))
  }
  const keySets = createKeySets({ baseDir, parseYaml, offline: true })
  for (const [name, policy] of Object.entries(identity.jwt)) {
    if (policy.publicKey === undefined) continue
    attempt(['identity', 'jwt', name, 'publicKey'], () => keySets.keysFor(policy))
  }
  for (const [name, set] of Object.entries(identity.apiKeys)) {
    if (set.file === undefined) continue
    attempt(['identity', 'apiKeys', name, 'file'], () => keySets.apiKeysFor(set))
  }
  keySets.close()
  for (const [name, { tls }] of Object.entries(redis)) {
    if (typeof tls !== 'object') continue
    attempt(['redis', name, 'tls', 'ca'], () => new X509Certificate(readFileSync(tls.ca)))
  }
  return findings
}

/** kubectl and helm judge what stands in deploy/. By `npm run conformance:tools`: no package manager of CI brings them. */

import { execFileSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { root } from '../package/packed.ts'

const deploy = join(root, 'deploy')
const chart = join(deploy, 'helm/fluxor-gateway')

describe('kubectl kustomize', () => {
  for (const variant of ['sidecar', 'tier', 'tier-keda']) {
    it(`builds ${variant}`, () => {
      const text = execFileSync('kubectl', ['kustomize', join(deploy, 'k8s', variant)], {
        encoding: 'utf8',
        timeout: 60_000,
      })
      const kinds = parseAllDocuments(text).map((document) => (document.toJS() as { kind: string }).kind)
      expect(kinds).toContain('ConfigMap')
      expect(kinds.includes('HorizontalPodAutoscaler')).toBe(variant === 'tier')
      expect(kinds.includes('ScaledObject')).toBe(variant === 'tier-keda')
    })
  }
})

describe('helm', () => {
  it('renders the chart in each mode', () => {
    const admin = '--set-json=config.server.admin={"address":"0.0.0.0:9901","token":"x"}'
    for (const [mode, ...flags] of [
      ['off'],
      ['hpa'],
      ['keda', '--set=autoscaling.adminTokenSecret=admin', admin],
    ] as const) {
      const args = ['template', 'edge', chart, `--set-string=autoscaling.mode=${mode}`, ...flags]
      const text = execFileSync('helm', args, { encoding: 'utf8', timeout: 60_000, cwd: dirname(chart) })
      for (const document of parseAllDocuments(text)) expect(document.errors).toEqual([])
    }
  })
})

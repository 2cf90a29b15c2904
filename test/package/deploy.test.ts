/**
 * What stands in deploy/: every file parses, every config passes `check --strict`, numbers that belong together agree, the
 * chart's templates use only values that exist.
 */

import { existsSync, globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parse, parseAllDocuments } from 'yaml'
import { z } from 'zod'
import { advise } from '../../src/config/advisor.ts'
import { loadConfig, parseConfig } from '../../src/config/load.ts'
import { formatProblem } from '../../src/config/problems.ts'
import type { Config } from '../../src/config/schema.ts'
import { root } from './packed.ts'

const deploy = join(root, 'deploy')
const chart = join(deploy, 'helm/fluxor-gateway')

// biome-ignore lint/suspicious/noExplicitAny: manifests are looked into by the dozen, and a miss is a failed test
type Any = Record<string, any>

function documents(file: string): Any[] {
  return parseAllDocuments(readFileSync(join(deploy, file), 'utf8')).map((document) => {
    expect(document.errors.map(String), file).toEqual([])
    return document.toJS() as Any
  })
}

const manifests = globSync('k8s/**/*.yaml', { cwd: deploy }).filter((file) => !file.endsWith('gateway.yaml'))
const one = (file: string, kind: string): Any => documents(file).find((document) => document['kind'] === kind)!

/** Less what the file allows by number. */
function findings(file: string): string[] {
  const { config, warnings } = loadConfig(file, {})
  const allowed = [...readFileSync(file, 'utf8').matchAll(/check: allow (A\d\d)/g)].map(([, rule]) => rule!)
  const advice = advise(config).filter(({ rule }) => !allowed.includes(rule))
  return [...warnings.map(formatProblem), ...advice.map(({ rule, message }) => `${rule} ${message}`)]
}

function drainSec({ server }: Config): number {
  return (server.shutdown.readinessDelay + server.shutdown.drain) / 1000
}

describe('deploy', () => {
  for (const file of globSync('**/gateway.yaml', { cwd: deploy })) {
    it(`${file} passes check --strict`, () => expect(findings(join(deploy, file))).toEqual([]))
  }

  it('holds YAML that parses', () => {
    const files = globSync('**/*.{yaml,yml}', { cwd: deploy }).filter((file) => !file.includes('/templates/'))
    expect(files.length).toBeGreaterThan(15)
    for (const file of files) documents(file)
  })
})

describe('deploy/compose', () => {
  const compose = documents('compose/compose.yaml')[0]!
  const services = compose['services'] as Record<string, Any>

  it('mounts only what is there', () => {
    for (const service of Object.values(services)) {
      for (const volume of (service['volumes'] ?? []) as string[]) {
        expect(existsSync(join(deploy, 'compose', volume.split(':')[0]!)), volume).toBe(true)
      }
    }
  })

  it('has the service, the gateway, Redis, Prometheus and Grafana', () => {
    expect(Object.keys(services).sort()).toEqual(['gateway', 'grafana', 'prometheus', 'redis', 'service'])
  })

  it('gives the gateway longer than its drain', () => {
    const grace = Number.parseInt(services['gateway']!['stop_grace_period'] as string, 10)
    expect(grace).toBeGreaterThan(drainSec(loadConfig(join(deploy, 'compose/gateway.yaml'), {}).config))
  })

  it('lets Prometheus read the rules of this repository and ask the probes port', () => {
    const prometheus = documents('compose/prometheus.yml')[0]!
    const folder = (services['prometheus']!['volumes'] as string[]).find((volume) => volume.includes('/rules'))!
    const patterns = (prometheus['rule_files'] as string[]).map((pattern) =>
      pattern.replace('/etc/prometheus/rules/', ''),
    )
    const rules = globSync(patterns, { cwd: join(deploy, 'compose', folder.split(':')[0]!) })
    expect(rules).toEqual(['fluxor-gateway.rules.yaml'])
    const { server } = loadConfig(join(deploy, 'compose/gateway.yaml'), {}).config
    const target = prometheus['scrape_configs'][0].static_configs[0].targets[0] as string
    expect(target).toBe(`gateway:${server.probes!.address.port}`)
  })
})

describe('deploy/k8s', () => {
  const sidecar = one('k8s/sidecar/deployment.yaml', 'Deployment')['spec']['template']['spec'] as Any
  const tier = one('k8s/tier/deployment.yaml', 'Deployment')['spec']['template']['spec'] as Any
  const sidecarConfig = loadConfig(join(deploy, 'k8s/sidecar/gateway.yaml'), {}).config
  const tierConfig = loadConfig(join(deploy, 'k8s/tier/gateway.yaml'), {}).config

  it('runs the sidecar as a native one, before the application and after it', () => {
    const [gateway] = sidecar['initContainers'] as Any[]
    expect(gateway!['restartPolicy']).toBe('Always')
    for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe']) expect(gateway).toHaveProperty(probe)
    const [app] = sidecar['containers'] as Any[]
    const sleep = app!['lifecycle'].preStop.sleep.seconds as number
    expect(sleep).toBeGreaterThan(drainSec(sidecarConfig))
    expect(sidecar['terminationGracePeriodSeconds']).toBeGreaterThan(sleep)
    // The application starts after the gateway is ready, so the gateway must not wait for it.
    expect(Object.values(sidecarConfig.upstreams).some(({ critical }) => critical)).toBe(false)
  })

  it('gives the tier longer than its drain', () => {
    expect(tier['terminationGracePeriodSeconds']).toBeGreaterThan(drainSec(tierConfig))
  })

  it('lets no gateway write, rise or be root', () => {
    for (const container of [sidecar['initContainers'][0], tier['containers'][0]] as Any[]) {
      expect(container['securityContext']).toMatchObject({
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      })
    }
  })

  it('names ports that the config opens', () => {
    const pairs: [Any, Config][] = [
      [sidecar['initContainers'][0], sidecarConfig],
      [tier['containers'][0], tierConfig],
    ]
    for (const [container, { server }] of pairs) {
      const ports = (container['ports'] as Any[]).map(({ containerPort }) => containerPort)
      expect(ports).toEqual([server.listen[0]!.address.port, server.probes!.address.port])
    }
  })

  it('scales from 3 to 10 on CPU, CCU and queue: one up a minute, one down in five', () => {
    const hpa = one('k8s/tier/hpa.yaml', 'HorizontalPodAutoscaler')['spec'] as Any
    const scaled = one('k8s/tier-keda/scaledobject.yaml', 'ScaledObject')['spec'] as Any
    expect([hpa['minReplicas'], hpa['maxReplicas']]).toEqual([3, 10])
    expect([scaled['minReplicaCount'], scaled['maxReplicaCount']]).toEqual([3, 10])
    expect(hpa['metrics'][0].resource.target.averageUtilization).toBe(70)
    const pods = (hpa['metrics'] as Any[]).slice(1).map(({ pods }) => [pods.metric.name, pods.target.averageValue])
    expect(pods).toEqual([
      ['ccu_utilization', '800m'],
      ['queue_utilization', '800m'],
    ])
    const rules = documents('k8s/prometheus-adapter/values.yaml')[0]!['rules']['custom'] as Any[]
    expect(rules.map(({ name }) => name.as)).toEqual(['ccu_utilization', 'queue_utilization'])
    for (const behavior of [hpa['behavior'], scaled['advanced'].horizontalPodAutoscalerConfig.behavior] as Any[]) {
      expect(behavior['scaleUp'].policies).toEqual([{ type: 'Pods', value: 1, periodSeconds: 60 }])
      expect(behavior['scaleDown'].policies).toEqual([{ type: 'Pods', value: 1, periodSeconds: 300 }])
    }
  })

  it('selects the pods it means', () => {
    const name = { 'app.kubernetes.io/name': 'fluxor-gateway' }
    expect(one('k8s/tier/deployment.yaml', 'Deployment')['spec']['template']['metadata']['labels']).toEqual(name)
    expect(one('k8s/tier/service.yaml', 'Service')['spec']['selector']).toEqual(name)
    expect(one('k8s/tier/pdb.yaml', 'PodDisruptionBudget')['spec']['selector']['matchLabels']).toEqual(name)
    expect(one('k8s/tier/networkpolicy.yaml', 'NetworkPolicy')['spec']['podSelector']['matchLabels']).toEqual(name)
  })

  it('uses API versions that Kubernetes serves', () => {
    const served: Record<string, string> = {
      Deployment: 'apps/v1',
      Service: 'v1',
      PodDisruptionBudget: 'policy/v1',
      NetworkPolicy: 'networking.k8s.io/v1',
      HorizontalPodAutoscaler: 'autoscaling/v2',
      ScaledObject: 'keda.sh/v1alpha1',
      TriggerAuthentication: 'keda.sh/v1alpha1',
      Kustomization: 'kustomize.config.k8s.io/v1beta1',
    }
    for (const file of manifests.filter((file) => !file.includes('prometheus-adapter'))) {
      for (const { kind, apiVersion } of documents(file)) expect(apiVersion, `${file}: ${kind}`).toBe(served[kind])
    }
  })
})

describe('deploy/helm', () => {
  const values = parse(readFileSync(join(chart, 'values.yaml'), 'utf8')) as Any
  const schema = JSON.parse(readFileSync(join(chart, 'values.schema.json'), 'utf8')) as Any
  const check = z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0])

  it('has values that fit their schema, and a schema that says no', () => {
    expect(check.safeParse(values).error?.issues ?? []).toEqual([])
    expect(check.safeParse({ ...values, replica: 3 }).success).toBe(false)
    expect(check.safeParse({ ...values, autoscaling: { mode: 'yes' } }).success).toBe(false)
    expect(check.safeParse({ ...values, config: { version: 2, routes: [] } }).success).toBe(false)
  })

  it('has a schema for every value, and a value for every reference of a template', () => {
    const missing = Object.keys(values).filter((key) => !(key in schema['properties']))
    expect(missing).toEqual([])
    for (const file of globSync('templates/*', { cwd: chart })) {
      const text = readFileSync(join(chart, file), 'utf8')
      expect(text.match(/\{\{/g)?.length, file).toBe(text.match(/\}\}/g)?.length)
      for (const [, path] of text.matchAll(/\.Values((?:\.\w+)+)/g)) {
        const found = path!
          .split('.')
          .slice(1)
          .reduce<Any | undefined>((value, key) => value?.[key], values)
        expect(found, `${file}: .Values${path}`).not.toBeUndefined()
      }
    }
  })

  it('ships a config that the gateway takes, on the ports it tells Kubernetes', () => {
    const { config, warnings } = parseConfig(JSON.stringify(values['config']), 'values.yaml', {})
    expect(warnings).toEqual([])
    expect(advise(config)).toEqual([])
    expect(values['ports']).toEqual({
      http: config.server.listen[0]!.address.port,
      probes: config.server.probes!.address.port,
    })
    expect(values['terminationGracePeriodSeconds']).toBeGreaterThan(drainSec(config))
  })

  it('has the version of the package', () => {
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
    const { appVersion } = parse(readFileSync(join(chart, 'Chart.yaml'), 'utf8')) as Any
    expect(appVersion).toBe(version)
    for (const file of ['k8s/tier/deployment.yaml', 'k8s/sidecar/deployment.yaml']) {
      expect(readFileSync(join(deploy, file), 'utf8')).toContain(`image: fluxor-gateway:${version}\n`)
    }
    expect(readFileSync(join(root, 'Dockerfile'), 'utf8')).toContain(`ARG VERSION=${version}\n`)
  })
})

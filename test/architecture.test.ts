/**
 * Which part may import which: the arrows of the source, drawn from the imports themselves. A broken arrow is named. Whoever
 * needs a new one changes the table below, and says in the commit why the part should know the other.
 */

import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import manifest from '../package.json' with { type: 'json' }

const SRC = join(dirname(dirname(fileURLToPath(import.meta.url))), 'src')

interface Import {
  from: string
  /** A file of the source, or what a package is called. */
  to: string
  /** Gone at run time. */
  typeOnly: boolean
  /** Read only when it is needed: no part of the order in which modules start. */
  lazy: boolean
}

const IMPORT =
  /^(?:import|export)\s+(?<type>type\s)?[^'"]*?\sfrom\s+'(?<from>[^']+)'|^import\s+'(?<bare>[^']+)'|(?<typeOf>typeof\s+)?\bimport\('(?<dynamic>[^']+)'\)|\(import\.meta\.url\)(?:\.resolve)?\('(?<required>[^']+)'\)/gm

function readImports(file: string): Import[] {
  return [...readFileSync(join(SRC, file), 'utf8').matchAll(IMPORT)].flatMap(({ groups }) => {
    const { type, from, bare, typeOf, dynamic, required } = groups!
    const specifier = from ?? bare ?? dynamic ?? required!
    if (specifier.startsWith('node:')) return []
    const to = specifier.startsWith('.') ? join(dirname(file), specifier) : packageName(specifier)
    const lazy = from === undefined && bare === undefined
    return [{ from: file, to, typeOnly: type !== undefined || typeOf !== undefined, lazy }]
  })
}

function packageName(specifier: string): string {
  const parts = specifier.split('/')
  return specifier.startsWith('@') ? parts.slice(0, 2).join('/') : parts[0]!
}

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
const imports = files.flatMap(readImports)
const inner = imports.filter(({ to }) => to.endsWith('.ts'))
const outer = imports.filter(({ to }) => !to.endsWith('.ts'))

/**
 * A part and what it may import at run time, beside itself. From the top down; nobody below knows anybody above.
 * `configs` are the `config.ts` of every folder, `terms` the `terms.ts` beside some, `memory` is where all shared memory is made, `advisor` tries a checked
 * config out on the router.
 */
const ARROWS: Record<string, string> = {
  main: 'commands',
  index: 'config gateway version',
  commands: 'advisor config explain gateway http listener loadtest memory policies services snapshot upstream version',
  loadtest: 'config http version',
  gateway: 'admin config listener memory observability policies redis shared upstream worker',
  admin: 'config listener observability policies shared upstream version',
  worker: 'explain listener observability policies services shared snapshot',
  advisor: 'config http http1 routing',
  explain: 'exchange http http1 local-reply pipeline policies routing services',
  listener: 'exchange http http1 local-reply observability shared',
  snapshot: 'answer exchange http http1 local-reply pipeline routing services',
  pipeline: 'answer builtin exchange http http1 local-reply observability policies routing services shared upstream',
  builtin: 'answer exchange http http1 local-reply observability services shared version',
  answer: 'exchange http http1 local-reply',
  services: 'config memory observability policies redis shared upstream',
  policies: 'terms exchange http http1 local-reply observability shared',
  upstream: 'exchange http http1 local-reply observability shared',
  routing: 'http http1',
  observability: 'http http1 shared version',
  memory: 'policies shared',
  config: 'configs http',
  configs: 'config http terms',
  terms: '',
  redis: '',
  exchange: '',
  'local-reply': '',
  http: 'http1',
  http1: '',
  shared: '',
  version: '',
}

function partOf(file: string): string {
  if (file.endsWith('/config.ts')) return 'configs'
  if (file.endsWith('/terms.ts')) return 'terms'
  if (file === 'shared/memory.ts') return 'memory'
  if (file === 'config/advisor.ts') return 'advisor'
  if (file.startsWith('admin-')) return 'admin'
  return file.includes('/') ? file.slice(0, file.indexOf('/')) : file.slice(0, -'.ts'.length)
}

describe('every import follows an arrow', () => {
  it('at run time', () => {
    const broken = inner
      .filter(({ typeOnly }) => !typeOnly)
      .map(({ from, to }) => ({ from, to, part: partOf(from), other: partOf(to) }))
      .filter(({ part, other }) => part !== other && !ARROWS[part]?.split(' ').includes(other))
      .map(({ from, to, part, other }) => `${from} → ${to}: ${part} may not import ${other}`)
    expect(broken).toEqual([])
  })

  it('no policy knows another, not even its types', () => {
    const policy = (file: string) => /^policies\/([^/]+)\//.exec(file)?.[1]
    const broken = inner
      .filter(({ from, to }) => policy(from) !== undefined && policy(to) !== undefined && policy(from) !== policy(to))
      .map(({ from, to }) => `${from} → ${to}`)
    expect(broken).toEqual([])
  })

  it('the schema knows of each folder its config.ts alone', () => {
    const broken = inner
      .filter(({ from }) => partOf(from) === 'config')
      .filter(({ to }) => !/^(?:config|http)\//.test(to) && !to.endsWith('/config.ts'))
      .map(({ from, to }) => `${from} → ${to}`)
    expect(broken).toEqual([])
  })

  it('the codec knows nobody, not even types', () => {
    const broken = inner
      .filter(({ from, to }) => partOf(from) === 'http1' && partOf(to) !== 'http1')
      .map(({ from, to }) => `${from} → ${to}`)
    expect(broken).toEqual([])
  })

  it('every file belongs to a part', () => {
    expect(files.filter((file) => !(partOf(file) in ARROWS))).toEqual([])
  })
})

it('no file is in an import cycle at run time', () => {
  const next = Map.groupBy(
    inner.filter(({ typeOnly, lazy }) => !typeOnly && !lazy),
    ({ from }) => from,
  )
  const state = new Map<string, 'open' | 'done'>()
  const cycles: string[] = []
  const visit = (file: string, path: string[]): void => {
    if (state.get(file) === 'done') return
    if (state.get(file) === 'open') {
      cycles.push([...path.slice(path.indexOf(file)), file].join(' → '))
      return
    }
    state.set(file, 'open')
    for (const { to } of next.get(file) ?? []) visit(to, [...path, file])
    state.set(file, 'done')
  }
  for (const file of files) visit(file, [])
  expect(cycles).toEqual([])
})

describe('packages', () => {
  /** One door each: where a package may be imported. */
  const DOORS: Record<string, RegExp> = {
    'http-proxy-3': /^upstream\//,
    ioredis: /^redis\.ts$/,
    jose: /^policies\/auth\//,
    'lru-cache': /^policies\/cache\//,
    'prom-client': /^observability\/registry\.ts$/,
    'rate-limiter-flexible': /^policies\/rate-limit\/redis-store\.ts$/,
    undici: /^(?:upstream\/|policies\/auth\/jwks\.ts$|policies\/cache\/|loadtest\/|commands\/loadtest\.ts$)/,
    uplot: /^observability\/dashboard/,
    yaml: /^config\//,
    zod: /^config\/|\/config\.ts$/,
  }

  it('each has one door', () => {
    const broken = outer
      .filter(({ from, to, typeOnly }) => !typeOnly && !DOORS[to]?.test(from))
      .map(({ from, to }) => (to in DOORS ? `${from} → ${to}: its door is ${DOORS[to]}` : `${from} → ${to}: no door`))
    expect(broken).toEqual([])
  })

  it('those that are imported are those that are installed with the package', () => {
    expect(Object.keys(DOORS).sort()).toEqual(Object.keys(manifest.dependencies).sort())
  })
})

it('a gateway that starts loads no schema, no YAML and no client of Redis', () => {
  const loaded = new Set<string>()
  const visit = (file: string): void => {
    if (loaded.has(file)) return
    loaded.add(file)
    for (const { from, to, typeOnly, lazy } of imports) if (from === file && !typeOnly && !lazy) visit(to)
  }
  for (const entry of ['commands/run.ts', 'gateway.ts', 'worker.ts']) visit(entry)
  expect([...loaded].filter((file) => !file.endsWith('.ts'))).toEqual(['lru-cache'])
})

it('the imports are found', () => {
  const found = (from: string, to: string) => imports.filter((one) => one.from === from && one.to === to)
  expect(found('snapshot.ts', 'pipeline.ts')).toMatchObject([{ typeOnly: false, lazy: false }])
  expect(found('exchange.ts', 'snapshot.ts')).toMatchObject([{ typeOnly: true }])
  expect(found('main.ts', 'commands/cli.ts'), 'import()').toMatchObject([{ typeOnly: false, lazy: true }])
  expect(
    found('redis.ts', 'ioredis').map(({ typeOnly }) => typeOnly),
    'createRequire',
  ).toContain(false)
  expect(found('config/schema.ts', 'zod'), 'a package').toHaveLength(1)
})

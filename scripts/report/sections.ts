/**
 * What the report measures, section by section: each starts what it needs on a stage, and gives its tables, and checks of
 * what must hold. Loads are a fraction of the default cap, which two cores can drive; each table says which.
 */

import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { usageOfTree } from '../../bench/harness/process-tree.ts'
import { signHs256 } from '../../src/builtin/token.ts'
import type { LoadResult } from '../../src/loadtest/result.ts'
import { formatCount, formatMs, formatShare } from '../../src/loadtest/slo.ts'
import type { ConfigObject, TestGateway } from '../../test/support/gateway.ts'
import { findOnPath } from '../../test/support/services.ts'
import { type Check, erlangLoss, type Piece } from './document.ts'
import { NotMeasured, PATIENT, type Stage } from './stage.ts'

/** `admission.maxCCU` when the config says nothing. */
const DEFAULT_CAP = 5000
const NORMAL_SHARE = 0.67
const SLO = 'p95<200ms,errors<0.1%'
const SLO_P95_MS = 200
const SECRET = 'a-secret-of-the-report-of-32-bytes-or-more'
/** The service of the load tables: it does as well with a full gateway as with an empty one. */
const SERVICE = { p50: 80, p99: 130 }
const SERVICE_MS = lognormalMean(SERVICE.p50, SERVICE.p99)
const SERVICE_LATENCY = latencyOf(SERVICE)
const HERE = 'http://127.0.0.1:8080'
const MIB = 2 ** 20
const DAY_S = 86_400

export const SECTIONS: Record<string, (stage: Stage) => Promise<Piece>> = {
  benchmark,
  load,
  queue,
  throughput,
  scaling,
  users,
  resources,
  logs,
  histogram,
}

/** The mean of a lognormal distribution with this median and 99th percentile. */
export function lognormalMean(p50: number, p99: number): number {
  return p50 * Math.exp((Math.log(p99 / p50) / 2.326347874) ** 2 / 2)
}

function latencyOf({ p50, p99 }: { p50: number; p99: number }): string {
  return `lognormal:p50=${p50}ms,p99=${p99}ms`
}

const proxying = (upstream: string, admission: ConfigObject, more: ConfigObject = {}): ConfigObject => ({
  admission,
  upstreams: { app: { endpoints: [{ url: upstream }], pool: { maxOpenConns: 20_000, maxIdleConns: 20_000 } } },
  routes: [{ match: { pathPrefix: '/' }, upstream: 'app' }],
  ...more,
})

const loadCommand = (args: string, url = `${HERE}/`) => `fluxor-gateway loadtest --url ${url} ${args}`
const upstreamCommand = (args: string) => `node loadtest/upstream.ts --port 3000 ${args}`
const errorsOf = ({ requests }: LoadResult) => requests.failed + requests.broken + requests.timedOut
const rounded = (rate: number) => Number(rate.toPrecision(3))
const cores = (share: number) => (Number.isNaN(share) ? '–' : `${(share * 100).toFixed(0)} %`)
const mib = (bytes: number) => `${(bytes / MIB).toFixed(0)} MiB`
const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
const most = (values: readonly number[]) => values.reduce((max, value) => Math.max(max, value), values[0] ?? Number.NaN)

/** What the gateway said of itself while the load was on, its first moments left out. */
function duringLoad({ gateway, plan }: LoadResult, fromShare = 0.2) {
  const inside = gateway.filter(({ atSec }) => atSec >= plan.durationSec * fromShare && atSec <= plan.durationSec)
  const of = (value: 'ccu' | 'queue' | 'cpuCores' | 'rssBytes') =>
    inside.map((sample) => sample[value]).filter((found) => found !== undefined)
  return {
    ccu: mean(of('ccu')),
    mostCcu: most(of('ccu')),
    queue: mean(of('queue')),
    cpuCores: mean(of('cpuCores')),
    rssBytes: most(of('rssBytes')),
  }
}

/** Tries one size after the other until the generator can drive it. */
async function firstMeasured<S>(stage: Stage, all: readonly S[], measure: (size: S) => Promise<Piece>): Promise<Piece> {
  const sizes = stage.tries(all)
  for (const [i, size] of sizes.entries()) {
    try {
      return await measure(size)
    } catch (error) {
      if (!(error instanceof NotMeasured) || i === sizes.length - 1) throw error
      process.stderr.write(`  too much for this machine: ${error.message}\n`)
      await stage.clear()
    }
  }
  throw new NotMeasured('there was nothing to try')
}

const watching = (gateway: TestGateway) => [
  '--admin',
  `http://127.0.0.1:${gateway.adminPort}`,
  '--pid',
  `${gateway.pid}`,
]

/** CPU time of processes and their children so far, in milliseconds. */
const cpuMsOf = (gateways: readonly TestGateway[]): number =>
  gateways.reduce((sum, { pid }) => {
    const { userMs, systemMs } = usageOfTree(pid)
    return sum + userMs + systemMs
  }, 0)

/** A load, and the CPU time that a request of it took of the gateway. */
async function costOf(gateway: TestGateway, run: (begin: () => void) => Promise<LoadResult>) {
  let before = 0
  const result = await run(() => {
    before = cpuMsOf([gateway])
  })
  return { result, us: ((cpuMsOf([gateway]) - before) * 1000) / result.requests.started }
}

/** Under the cap nothing fails; beyond it the refusals are 503 and nothing else does; who is served is served in time. */
function checksOf(name: string, result: LoadResult, { refusals }: { refusals: boolean }): Check[] {
  const allowed = refusals ? ['200', '503'] : ['200']
  const statuses = Object.keys(result.statuses)
  const { p95 } = result.latencyMs
  return [
    {
      text: `${name}: no errors: ${errorsOf(result)} of ${result.requests.started}`,
      met: errorsOf(result) === 0,
    },
    {
      text: `${name}: ${refusals ? 'nothing but 200 and 503' : 'nothing but 200'}: ${statuses.join(', ')}`,
      met: statuses.every((status) => allowed.includes(status)) && statuses.includes('200'),
    },
    { text: `${name}: who was served met p95 < ${SLO_P95_MS} ms: ${formatMs(p95)}`, met: p95 < SLO_P95_MS },
  ]
}

async function benchmark(stage: Stage): Promise<Piece> {
  const service = await stage.service()
  const app = { upstream: 'app' }
  const gateway = await stage.gateway(
    proxying(
      service,
      {},
      {
        identity: { jwt: { main: { secret: SECRET, algorithms: ['HS256'], issuer: 'fluxor' } } },
        rateLimits: { perIp: { key: 'ip', limit: 1_000_000, window: '1s' } },
        routes: [
          { match: { path: '/', methods: ['GET'] }, home: {} },
          { match: { path: '/token', methods: ['POST'] }, token: { jwt: 'main', allow: ['127.0.0.0/8'] } },
          { match: { pathPrefix: '/bare' }, ...app },
          { match: { pathPrefix: '/guarded' }, ...app, jwt: 'main', rateLimit: ['perIp'] },
        ],
      },
    ),
  )
  const nowSec = Math.floor(Date.now() / 1000)
  const token = signHs256(`{"sub":"report","iss":"fluxor","exp":${nowSec + 3600}}`, SECRET)
  const questions: [name: string, path: string, args: string[]][] = [
    ['home, answered by the gateway', '/', []],
    ['a token made (HS256), `POST`', '/token', ['--method', 'POST']],
    ['proxied', '/bare', []],
    ['proxied, JWT checked, limit per address', '/guarded', ['--token', token]],
  ]
  return firstMeasured(stage, [2000, 1000, 500], async (rate) => {
    const rows = [['', 'CPU µs/request', 'p50', 'p99']]
    const checks: Check[] = []
    for (const [name, path, args] of questions) {
      const ask = (seconds: number, begin?: () => void) =>
        stage.load(`${gateway.url}${path}`, seconds, ['--rate', `${rate}`, ...args], { begin })
      await ask(stage.seconds(3))
      const { result, us } = await costOf(gateway, (begin) => ask(stage.seconds(8), begin))
      rows.push([name, us.toFixed(1), formatMs(result.latencyMs.p50), formatMs(result.latencyMs.p99)])
      checks.push(...checksOf(name, result, { refusals: false }))
    }
    const signing = timeOf(() => signHs256(`{"sub":"report","iat":${nowSec},"exp":${nowSec + 3600}}`, SECRET))
    rows.push(['the signing of that token alone', signing.toFixed(1), '', ''])
    return {
      commands: [loadCommand(`--rate ${rate} --duration ${stage.seconds(8)}s`, `${HERE}/PATH`)],
      tables: [{ rows }],
      notes: [
        `At ${formatCount(rate)} requests a second the process is mostly idle, and pays more for each request than when it is busy: ` +
          'each wakes it up. What it pays when its core is full is in [Bare proxying](#bare-proxying) and below it.',
      ],
      checks,
    }
  })
}

/** Microseconds of one call, over half a second after a warm-up. */
function timeOf(call: () => unknown): number {
  for (let i = 0; i < 20_000; i++) call()
  const beganMs = performance.now()
  let calls = 0
  while (performance.now() - beganMs < 500) {
    for (let i = 0; i < 100; i++) call()
    calls += 100
  }
  return ((performance.now() - beganMs) * 1000) / calls
}

interface Level {
  readonly name: string
  readonly share: number
  readonly result: LoadResult
}

/** One gateway under loads that ask for shares of its cap, one after the other. */
async function levelsOf(
  stage: Stage,
  cap: number,
  admission: ConfigObject,
  shares: [string, number][],
  seconds: number,
) {
  const service = await stage.service('--latency', SERVICE_LATENCY)
  const gateway = await stage.gateway(proxying(service, admission))
  const rateOf = (share: number) => rounded((share * cap) / (SERVICE_MS / 1000))
  const run = (share: number, runSeconds: number) =>
    stage.load(gateway.url, runSeconds, ['--rate', `${rateOf(share)}`, '--slo', SLO, ...watching(gateway)])
  await run(shares[0]![1], stage.seconds(4))
  const levels: Level[] = []
  for (const [name, share] of shares) levels.push({ name, share, result: await run(share, stage.seconds(seconds)) })
  const commands = [
    upstreamCommand(`--latency ${SERVICE_LATENCY}`),
    `fluxor-gateway -c gateway.yaml  # admission: ${JSON.stringify(admission)
      .replace(/"/g, '')
      .replace(/([:,])/g, '$1 ')}`,
    loadCommand(`--rate RATE --duration ${stage.seconds(seconds)}s --slo '${SLO}' --admin http://127.0.0.1:9901`),
  ]
  return { levels, rateOf, commands }
}

const serviceNote = (cap: number) =>
  `The cap is ${cap}, 1/${DEFAULT_CAP / cap} of the default ${formatCount(DEFAULT_CAP)}: more than two cores can drive of the default. ` +
  `The service takes ${SERVICE_MS.toFixed(1)} ms on average (median ${SERVICE.p50}, p99 ${SERVICE.p99}), however many ask.`

async function load(stage: Stage): Promise<Piece> {
  return firstMeasured(stage, [25, 40], async (part) => {
    const cap = DEFAULT_CAP / part
    const shares: [string, number][] = [
      ['normal', NORMAL_SHARE],
      ['peak', 1],
      ['beyond', 2],
    ]
    const { levels, rateOf, commands } = await levelsOf(stage, cap, { maxCCU: cap, workers: cap }, shares, 20)
    const row = (name: string, goal: string, of: (level: Level) => string) => [name, ...levels.map(of), goal]
    const heads = levels.map(({ name, share }) => `${name} (${(share * 100).toFixed(0)} % of the cap)`)
    const latency = (name: string, of: keyof LoadResult['latencyMs'], goal = '') =>
      row(name, goal, ({ result }) => formatMs(result.latencyMs[of]))
    const expected = (share: number) => erlangLoss((rateOf(share) * SERVICE_MS) / 1000, cap)
    return {
      commands,
      tables: [
        {
          rows: [
            ['', ...heads, 'goal'],
            row('asked for at once: rate × time', '', ({ share }) => (share * cap).toFixed(0)),
            row('requests a second', '', ({ share }) => formatCount(rateOf(share))),
            row('CCU, mean and most', `≤ ${cap}`, ({ result }) => {
              const { ccu, mostCcu } = duringLoad(result)
              return `${ccu.toFixed(0)}, ${mostCcu}`
            }),
            row('served a second', '', ({ result }) => formatCount(result.rps)),
            latency('p50', 'p50'),
            latency('p95', 'p95', `< ${SLO_P95_MS} ms`),
            latency('p99', 'p99'),
            row('503 at capacity', 'only beyond', ({ result }) => formatShare(result.shares.shed)),
            row("503 by Erlang's formula", '', ({ share }) => formatShare(expected(share))),
            row('errors', '0', ({ result }) => `${errorsOf(result)}`),
            row('CPU, of one core', '< 80 %', ({ result }) => cores(duringLoad(result).cpuCores)),
            row('memory', '', ({ result }) => mib(duringLoad(result).rssBytes)),
          ],
        },
        {
          about: 'How latency is distributed in the same runs, of who was served, and of the 503s:',
          rows: [
            ['', ...levels.map(({ name }) => name), '503 beyond'],
            ...(['p50', 'p75', 'p90', 'p95', 'p99', 'p999', 'max'] as const).map((name) => [
              name === 'p999' ? 'p99.9' : name,
              ...levels.map(({ result }) => formatMs(result.latencyMs[name])),
              formatMs(levels.at(-1)!.result.refusedMs[name]),
            ]),
          ],
        },
      ],
      notes: [
        `${serviceNote(cap)} Requests come as strangers do, at random: a load that asks for the whole cap on average asks for more ` +
          "now and then, and those moments are refused. How often is Erlang's loss formula, which is not ours, and stands beside.",
      ],
      checks: levels.flatMap(({ name, share, result }) => [
        ...checksOf(name, result, { refusals: share >= 1 }),
        {
          text: `${name}: never more than the cap: ${duringLoad(result, 0).mostCcu}`,
          met: duringLoad(result, 0).mostCcu <= cap,
        },
      ]),
    }
  })
}

async function queue(stage: Stage): Promise<Piece> {
  return firstMeasured(stage, [25, 40], async (part) => {
    const cap = DEFAULT_CAP / part
    const workers = Math.floor(cap * NORMAL_SHARE)
    const shares: [string, number][] = [
      ['below', 0.6],
      ['beyond', 1],
      ['far beyond', 2],
    ]
    const { levels, rateOf, commands } = await levelsOf(stage, cap, { maxCCU: cap }, shares, 15)
    return {
      commands,
      tables: [
        {
          rows: [
            ['asked for', 'requests a second', 'served a second', 'waiting', 'p50', 'p95', 'p99', '503', 'errors'],
            ...levels.map(({ name, share, result }) => [
              `${(share * 100).toFixed(0)} % of the cap, ${name}`,
              formatCount(rateOf(share)),
              formatCount(result.rps),
              duringLoad(result).queue.toFixed(0),
              formatMs(result.latencyMs.p50),
              formatMs(result.latencyMs.p95),
              formatMs(result.latencyMs.p99),
              formatShare(result.shares.shed),
              `${errorsOf(result)}`,
            ]),
          ],
        },
      ],
      notes: [
        `${serviceNote(cap)} The service gets ${workers} at once, and can give ${formatCount(rounded(workers / (SERVICE_MS / 1000)))} answers a ` +
          `second; ${cap - workers} may wait. A full queue costs each who gets in ${formatMs(((cap - workers) * SERVICE_MS) / workers)}.`,
      ],
      checks: levels.flatMap(({ name, share, result }) => checksOf(name, result, { refusals: share >= NORMAL_SHARE })),
    }
  })
}

const RATES = [1000, 2000, 4000, 6000, 8000, 10_000, 12_000]

async function throughput(stage: Stage): Promise<Piece> {
  const service = await stage.service()
  const gateway = await stage.gateway(
    proxying(
      service,
      {},
      {
        routes: [
          { match: { path: '/', methods: ['GET'] }, home: {} },
          { match: { pathPrefix: '/bare' }, upstream: 'app' },
        ],
      },
    ),
  )
  const rows = [['', 'requests/s', 'p50', 'p99', 'gateway’s core', 'CPU µs/request', 'what ended it']]
  const checks: Check[] = []
  for (const [name, path] of [
    ['proxied', '/bare'],
    ['answered by the gateway', '/'],
  ] as const) {
    let best: { result: LoadResult; us: number } | undefined
    let ended = 'no more was tried'
    for (const rate of stage.pace.quick ? RATES.slice(0, 1) : RATES) {
      try {
        const { result, us } = await costOf(gateway, (begin) =>
          stage.load(`${gateway.url}${path}`, stage.seconds(5), ['--rate', `${rate}`, '--slo', SLO], { begin }),
        )
        if (result.verdict === 'FAIL') {
          ended = result.reasons.join('; ')
          break
        }
        best = { result, us }
      } catch (error) {
        if (!(error instanceof NotMeasured) || best === undefined) throw error
        ended = 'the generator’s core was full'
        break
      }
    }
    if (best === undefined) throw new Error(`${name}: not even ${RATES[0]} requests a second: ${ended}`)
    const { result, us } = best
    rows.push([
      name,
      formatCount(result.rps),
      formatMs(result.latencyMs.p50),
      formatMs(result.latencyMs.p99),
      cores((us * result.rps) / 1e6),
      us.toFixed(1),
      ended,
    ])
    checks.push(...checksOf(name, result, { refusals: false }))
  }
  return {
    commands: [loadCommand(`--rate RATE --duration ${stage.seconds(5)}s --slo '${SLO}'`, `${HERE}/PATH`)],
    tables: [{ about: 'The highest rate that was driven and met its objectives, of a quick service:', rows }],
    notes: [
      'Generator and service share the second core, and fill it long before the gateway fills the first: these are rates that one ' +
        'core surely carries, not the most that it can. That is in [Bare proxying](#bare-proxying), by a closed loop of wrk.',
    ],
    checks,
  }
}

const INSTANCES = 3

async function scaling(stage: Stage): Promise<Piece> {
  return firstMeasured(stage, [50, 100], async (part) => {
    const cap = DEFAULT_CAP / part
    const service = await stage.service('--latency', SERVICE_LATENCY)
    const instances: TestGateway[] = []
    const own = { maxCCU: cap, workers: cap, slotsHeader: true }
    for (let i = 0; i < INSTANCES; i++) instances.push(await stage.gateway(proxying(service, own)))
    const tier = await stage.gateway({
      ...proxying('', { maxCCU: cap * INSTANCES, workers: cap * INSTANCES }),
      upstreams: {
        app: {
          endpoints: instances.map(({ url }) => ({ url })),
          balance: 'leastRequest',
          slots: true,
          pool: { maxOpenConns: 20_000, maxIdleConns: 20_000 },
          outlier: { consecutiveErrors: 3, ejectFor: '30s' },
          retry: { attempts: 2, on: ['connectError', 'reset'], budgetPercent: 20 },
        },
      },
    })
    const seconds = stage.seconds(15)
    const rateOf = (share: number) => rounded((share * cap) / (SERVICE_MS / 1000))
    const rows = [
      [
        '',
        'cap',
        'requests/s',
        'served/s',
        '503',
        'errors',
        'p50',
        'p95',
        'CPU µs/request, tier',
        'instances',
        'their shares',
      ],
    ]
    const checks: Check[] = []
    const measure = async (
      name: string,
      front: TestGateway,
      behind: TestGateway[],
      share: number,
      look?: () => void,
    ) => {
      const args = ['--rate', `${rateOf(share)}`, '--slo', SLO]
      await stage.load(front.url, stage.seconds(3), args)
      const [tiers, inner] = behind.length > 0 ? [[front], behind] : [[], [front]]
      const spent = () => [cpuMsOf(tiers), cpuMsOf(inner)] as const
      const answered = () => Promise.all(inner.map(servedBy))
      let [before, counts] = [spent(), await answered()]
      const begin = async () => {
        ;[before, counts] = [spent(), await answered()]
      }
      const result = await stage.load(front.url, seconds, args, { begin, look, lookAt: 0.5 })
      const [tierUs, instanceUs] = spent().map((ms, i) => ((ms - before[i]!) * 1000) / result.requests.started)
      // Of one that was killed nobody knows.
      const whole = inner.every(({ running }) => running)
      const shares = whole ? (await answered()).map((count, i) => count - counts[i]!) : []
      const sum = shares.reduce((total, count) => total + count, 0)
      rows.push([
        name,
        `${cap * inner.length}`,
        formatCount(rateOf(share)),
        formatCount(result.rps),
        formatShare(result.shares.shed),
        `${errorsOf(result)}`,
        formatMs(result.latencyMs.p50),
        formatMs(result.latencyMs.p95),
        tiers.length > 0 ? tierUs!.toFixed(0) : '',
        whole ? instanceUs!.toFixed(0) : '',
        behind.length > 0 ? shares.map((count) => `${((count / sum) * 100).toFixed(0)} %`).join(', ') : '',
      ])
      checks.push(...checksOf(name, result, { refusals: true }))
      return { result, tierUs: tierUs!, instanceUs: instanceUs! }
    }
    const one = await measure('one gateway', instances[0]!, [], 2.1)
    const three = await measure('three behind a fourth', tier, instances, 2.1)
    await measure('the same, one killed half-way', tier, instances, 1.6, () =>
      instances[INSTANCES - 1]!.signal('SIGKILL'),
    )
    checks.push({
      text: `three carry what one does not: ${formatShare(three.result.shares.shed)} refused against ${formatShare(one.result.shares.shed)}`,
      met: three.result.shares.shed < 0.01 && one.result.shares.shed > 0.5,
    })
    const carried = three.result.rps / one.result.rps
    return {
      commands: [
        upstreamCommand(`--latency ${SERVICE_LATENCY}`),
        loadCommand(`--rate RATE --duration ${seconds}s --slo '${SLO}'`),
      ],
      tables: [{ rows }],
      notes: [
        `Each instance has a cap of ${cap} (1/${part} of the default), the tier of ${cap * INSTANCES}. Capacity is the sum: the three served ` +
          `${carried.toFixed(2)} times what one did, of a load that asks for 2.1 caps.`,
        'All four share one core here, so throughput cannot grow with them: a request costs ' +
          `${(three.tierUs + three.instanceUs).toFixed(0)} µs of it in place of ${one.instanceUs.toFixed(0)}. With a core each, the three would carry ` +
          `three times what one does, until the tier's own ${three.tierUs.toFixed(0)} µs a request fill its core; then it takes more threads, or a second one.`,
      ],
      checks,
    }
  })
}

/** Requests that a gateway has answered so far. */
const servedBy = async (gateway: TestGateway): Promise<number> => (await gateway.metric('http_requests_total')) ?? 0

/** A third of the time to get there, so that opening connections is no part of what is measured. */
function upTo(level: number | string, seconds: number): string {
  const rampSeconds = Math.round(seconds / 3)
  return `0..${level}/${rampSeconds}s, hold ${seconds - rampSeconds}s`
}

async function users(stage: Stage): Promise<Piece> {
  const people = stage.pace.quick ? 500 : 5000
  return firstMeasured(stage, stage.pace.quick ? [1] : [2, 4, 8], async (thinkSec) => {
    const service = await stage.service('--latency', SERVICE_LATENCY)
    const gateway = await stage.gateway(proxying(service, {}))
    let connections = 0
    const look = async () => {
      connections = (await gateway.metric('fluxor_connections')) ?? 0
    }
    const seconds = stage.seconds(24)
    const shape = upTo(people, seconds)
    const args = ['--shape', shape, '--think', `${thinkSec}s`, '--slo', SLO, ...watching(gateway)]
    const result = await stage.load(gateway.url, seconds, args, { look })
    const { ccu, mostCcu, cpuCores, rssBytes } = duringLoad(result, 0.4)
    const atFull = result.series.filter(({ level }) => level >= people * 0.99)
    const name = `${formatCount(people)} users`
    return {
      commands: [
        upstreamCommand(`--latency ${SERVICE_LATENCY}`),
        loadCommand(`--shape '${shape}' --think ${thinkSec}s --slo '${SLO}' --admin http://127.0.0.1:9901`),
      ],
      tables: [
        {
          rows: [
            [
              'users',
              'connections',
              'served/s, all there',
              'CCU, mean and most',
              'p50',
              'p95',
              'p99',
              '503',
              'errors',
              'CPU',
              'memory',
            ],
            [
              formatCount(people),
              formatCount(connections),
              formatCount(mean(atFull.map(({ answersPerSec }) => answersPerSec['2xx']))),
              `${ccu.toFixed(0)}, ${mostCcu}`,
              formatMs(result.latencyMs.p50),
              formatMs(result.latencyMs.p95),
              formatMs(result.latencyMs.p99),
              formatShare(result.shares.shed),
              `${errorsOf(result)}`,
              cores(cpuCores),
              mib(rssBytes),
            ],
          ],
        },
      ],
      notes: [
        `Not scaled down: the default cap, a connection for each user, who asks every ${thinkSec} s on average and waits ` +
          `${SERVICE_MS.toFixed(0)} ms. How many of them are inside at once is the CCU; with all of them inside at once, see [Resources](#resources).`,
      ],
      checks: [
        ...checksOf(name, result, { refusals: false }),
        { text: `${name}: as many connections: ${connections}`, met: connections >= people },
      ],
    }
  })
}

async function resources(stage: Stage): Promise<Piece> {
  const scale = stage.pace.quick ? 0.02 : 1
  const seconds = stage.seconds(15)
  return firstMeasured(stage, stage.pace.quick ? [0.2] : [2, 4], async (serviceSec) => {
    const service = await stage.service('--latency', `fixed:${serviceSec * 1000}ms`)
    const gateway = await stage.gateway(proxying(service, { maxCCU: DEFAULT_CAP, workers: DEFAULT_CAP }))
    const descriptors = () => readdirSync(`/proc/${gateway.pid}/fd`).length
    await new Promise((resolve) => setTimeout(resolve, 2000))
    const before = usageOfTree(gateway.pid)
    const beganMs = performance.now()
    await new Promise((resolve) => setTimeout(resolve, stage.seconds(10) * 1000))
    const after = usageOfTree(gateway.pid)
    const idle = (after.userMs + after.systemMs - before.userMs - before.systemMs) / (performance.now() - beganMs)
    const rows = [
      ['', 'in flight (CCU)', 'requests/s', 'CPU, of one core', 'memory', 'descriptors', 'errors'],
      ['idle', '0', '0', `${(idle * 100).toFixed(1)} %`, mib(after.rssBytes), `${descriptors()}`, ''],
    ]
    const checks: Check[] = []
    // What is inside is rate × time, to within the timers: a little under the cap is as full as it gets without a refusal.
    for (const [name, ccuGoal] of [
      ['low', 1000],
      ['normal', 3350],
      ['peak', 4700],
    ] as const) {
      const rate = rounded((ccuGoal * scale) / serviceSec)
      let open = 0
      const look = () => {
        open = descriptors()
      }
      const args = ['--shape', upTo(rate, seconds)]
      args.push('--rate', `${rate}`, '--arrivals', 'even', '--slo', 'errors<0.1%', ...watching(gateway))
      const result = await stage.load(gateway.url, seconds, args, { look })
      const { ccu, cpuCores, rssBytes } = duringLoad(result, 0.6)
      rows.push([
        name,
        ccu.toFixed(0),
        formatCount(rate),
        cores(cpuCores),
        mib(rssBytes),
        formatCount(open),
        `${errorsOf(result)}`,
      ])
      checks.push(...checksOf(name, result, { refusals: false }).slice(0, 2))
    }
    return {
      commands: [
        upstreamCommand(`--latency fixed:${serviceSec * 1000}ms`),
        loadCommand(`--shape '${upTo('RATE', seconds)}' --rate RATE --arrivals even --admin http://127.0.0.1:9901`),
      ],
      tables: [{ rows }],
      notes: [
        `Not scaled down: as many exchanges in flight as it says, each waiting ${serviceSec} s for the service. What is in flight costs memory, ` +
          'what comes and goes costs CPU. Each takes two descriptors, one to the client and one to the service. The cap counts what is in flight alone.',
      ],
      checks,
    }
  })
}

async function logs(stage: Stage): Promise<Piece> {
  const service = await stage.service()
  const rows = [
    ['`logging.access`', 'bytes a request', ...[100, 1000, 5000].map((rate) => `a day at ${formatCount(rate)}/s`)],
  ]
  const checks: Check[] = []
  for (const access of [
    { format: 'json' },
    { format: 'combined' },
    { format: 'common' },
    { format: 'json', sample: 0.1 },
  ]) {
    const file = join(stage.folder, `${JSON.stringify(access).replace(/\W/g, '')}.log`)
    const gateway = await stage.gateway(proxying(service, {}, { logging: { access: { ...access, file } } }))
    // When they come does not matter: how long their lines are does.
    const result = await stage.load(`${gateway.url}/api/orders/7`, stage.seconds(5), ['--rate', '500', ...PATIENT])
    await gateway.stop()
    // One request came before the load, to look whether somebody is there.
    const bytes = statSync(file).size / (result.requests.started + 1)
    const aDay = (rate: number) => `${((bytes * rate * DAY_S) / 1e9).toFixed(1)} GB`
    const name = Object.entries(access)
      .map(([key, value]) => `${key}: ${value}`)
      .join(', ')
    rows.push([`\`${name}\``, bytes.toFixed(0), aDay(100), aDay(1000), aDay(5000)])
    checks.push({ text: `${name}: something was logged: ${bytes.toFixed(0)} bytes a request`, met: bytes > 1 })
  }
  return {
    commands: [loadCommand(`--rate 500 --duration ${stage.seconds(5)}s`, `${HERE}/api/orders/7`)],
    tables: [{ rows }],
    notes: [
      'A day is that rate for all of it. `only: errors` writes as many lines as there are errors, `only: none` none. ' +
        'Longer paths and `headers` make longer lines.',
    ],
    checks,
  }
}

const COMPARED = [50, 75, 90, 99]
/** A smoke run has a thousand requests, and a p99 of ten of them. */
const mostDifference = ({ pace }: Stage) => (pace.quick ? 0.3 : 0.05)

async function histogram(stage: Stage): Promise<Piece> {
  if (findOnPath('wrk') === undefined) throw new Error('wrk is needed and not on PATH')
  const latency = { p50: 20, p99: 80 }
  const allowed = mostDifference(stage)
  const form = latencyOf(latency)
  return firstMeasured(stage, [32, 16, 8], async (connections) => {
    const service = await stage.service('--latency', form)
    const gateway = await stage.gateway(proxying(service, {}))
    // As many as the closed loop of wrk makes: its connections over the time that one answer takes.
    const rate = rounded(connections / (lognormalMean(latency.p50, latency.p99) / 1000))
    const ours = (seconds: number) => stage.load(gateway.url, seconds, ['--rate', `${rate}`])
    await ours(stage.seconds(3))
    const seconds = stage.seconds(30)
    const [result, wrk] = await Promise.all([ours(seconds), stage.wrk(gateway.url, connections, seconds, COMPARED)])
    const rows = [['', 'loadtest', 'wrk', 'difference']]
    const checks: Check[] = [
      { text: `no errors: ${errorsOf(result)} and ${wrk.bad}`, met: errorsOf(result) + wrk.bad === 0 },
    ]
    const compare = (name: string, us: number, otherUs: number) => {
      const difference = us / otherUs - 1
      rows.push([name, formatMs(us / 1000), formatMs(otherUs / 1000), `${(difference * 100).toFixed(1)} %`])
      checks.push({
        text: `${name} within ${allowed * 100} % of wrk's: ${(difference * 100).toFixed(1)} %`,
        met: Math.abs(difference) <= allowed,
      })
    }
    const { latencyMs } = result
    for (const percent of COMPARED) {
      const ms = latencyMs[`p${percent}` as keyof typeof latencyMs]
      compare(`p${percent}`, ms * 1000, wrk.percentilesUs[percent]!)
    }
    compare('mean', latencyMs.mean * 1000, wrk.meanUs)
    rows.push(['requests', formatCount(result.requests.started), formatCount(wrk.requests), ''])
    return {
      commands: [
        upstreamCommand(`--latency ${form}`),
        `${loadCommand(`--rate ${rate} --duration ${seconds}s`)} &`,
        `wrk -t1 -c${connections} -d${seconds}s --latency ${HERE}/`,
      ],
      tables: [{ rows }],
      notes: [
        'Both at the same time through the same gateway, so that what the machine does meanwhile falls on both. wrk asks again when it ' +
          'has its answer, ours when the time has come; the service takes as long however many ask, so both must see the same latency.',
      ],
      checks,
    }
  })
}

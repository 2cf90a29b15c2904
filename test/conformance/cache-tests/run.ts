/**
 * Runs the public HTTP caching test suite (https://github.com/http-tests/cache-tests) against the gateway and counts as the
 * suite's own page does: a test whose dependency fails does not count as passed. The suite is not part of this repository:
 *
 *     git clone https://github.com/http-tests/cache-tests /tmp/cache-tests
 *     npm run conformance:cache -- --suite /tmp/cache-tests [--id TEST] [--json FILE] [--all]
 *
 * Exit 0 when every required test passes but those listed below; 1 else.
 */

import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { registerHooks } from 'node:module'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { fetch as undiciFetch } from 'undici'
import { freePort } from '../../support/free-port.ts'
import { startGateway } from '../../support/gateway.ts'

/** Required tests that this cache does not pass, and why that is right. */
const EXCEPTIONS: Record<string, string> = {
  'headers-store-Transfer-Encoding':
    'The origin sends a transfer coding that does not exist. RFC 9112 §6.1, §6.3: such a message cannot be framed, and ' +
    'passing it on is how requests are smuggled; the gateway answers 502.',
}

/** What the tests presuppose: stale answers on errors where the origin does not forbid them, and heuristic freshness. */
const CACHE = { staleIfError: '60s', heuristic: '10%' }

type Kind = 'required' | 'optimal' | 'check'

interface SuiteTest {
  readonly id: string
  readonly name: string
  readonly kind?: Kind
  readonly browser_only?: boolean
}

interface Suite {
  readonly id: string
  readonly name: string
  readonly tests: SuiteTest[]
}

type Results = Record<string, true | [string, string]>

const { values } = parseArgs({
  options: {
    suite: { type: 'string' },
    id: { type: 'string' },
    json: { type: 'string' },
    all: { type: 'boolean', default: false },
  },
})
if (values.suite === undefined) {
  console.error('usage: npm run conformance:cache -- --suite DIR [--id TEST] [--json FILE] [--all]')
  process.exit(64)
}
const folder = resolve(values.suite)

// The suite's client imports undici, which its folder may not have installed, and gives its dispatchers to `fetch`: that
// must be the fetch of the same undici.
globalThis.fetch = undiciFetch as unknown as typeof fetch
registerHooks({
  resolve: (specifier, context, next) =>
    next(specifier, specifier === 'undici' ? { ...context, parentURL: import.meta.url } : context),
})
const load = (path: string) => import(pathToFileURL(join(folder, path)).href)

const originPort = await freePort()
const origin = spawn(process.execPath, ['test-engine/server/server.mjs'], {
  cwd: folder,
  env: {
    ...process.env,
    npm_config_protocol: 'http',
    npm_config_port: String(originPort),
    npm_config_pidfile: join(tmpdir(), `cache-tests-${process.pid}.pid`),
  },
  stdio: ['ignore', 'pipe', 'inherit'],
})
await new Promise<void>((started, failed) => {
  origin.stdout.once('data', () => started())
  origin.once('exit', () => failed(new Error('the origin of the suite did not start')))
})
origin.stdout.resume()
// Whatever happens below, the origin does not outlive this process.
process.once('exit', () => origin.kill())
const gateway = await startGateway({
  cache: {},
  upstreams: { origin: { endpoints: [{ url: `http://localhost:${originPort}` }] } },
  routes: [{ name: 'suite', upstream: 'origin', cache: CACHE }],
})

let failed = false
try {
  const suites = ((await load('tests/index.mjs')) as { default: Suite[] }).default
  const { runTests, getResults } = (await load('test-engine/client/runner.mjs')) as {
    runTests(suites: Suite[], browser: boolean, base: string): Promise<void>
    getResults(): Results
  }
  const { determineTestResult, resultTypes } = (await load('test-engine/lib/results.mjs')) as {
    determineTestResult(suites: Suite[], id: string, results: Results, honorDependencies?: boolean): unknown[]
    resultTypes: Record<string, unknown[]>
  }
  const chosen =
    values.id === undefined
      ? suites
      : suites.map((suite) => ({
          ...suite,
          tests: suite.tests.filter(({ id }) => id === values.id).map((test) => ({ ...test, dump: true })),
        }))
  await runTests(chosen, false, gateway.url)
  const results = getResults()
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(results, null, 2)}\n`)

  const counts = { required: [0, 0], optimal: [0, 0], check: [0, 0] } satisfies Record<Kind, number[]>
  const passed = [resultTypes['pass'], resultTypes['yes']]
  for (const suite of chosen) {
    for (const test of suite.tests) {
      if (test.browser_only || !(test.id in results)) continue
      const kind = test.kind ?? 'required'
      const outcome = determineTestResult(suites, test.id, results, values.id === undefined)
      const ok = passed.includes(outcome)
      counts[kind][1]!++
      if (ok) counts[kind][0]!++
      else if (kind === 'required' && !(test.id in EXCEPTIONS)) failed = true
      const detail = results[test.id]
      const why = detail === true ? 'a test it depends on failed' : detail!.join(': ')
      if (!ok && (kind !== 'check' || values.all)) console.log(`${kind} ${test.id}: ${EXCEPTIONS[test.id] ?? why}`)
      else if (values.all) console.log(`${kind} ${test.id}: ${ok ? 'passed' : why}`)
    }
  }
  for (const [kind, [ok, all]] of Object.entries(counts)) console.log(`${kind}: ${ok} of ${all}`)
} catch (error) {
  failed = true
  console.error(error, gateway.output())
} finally {
  origin.removeAllListeners('exit')
  origin.kill()
  await gateway.close()
}
process.exit(failed ? 1 : 0)

/** `explain` on the examples: for each request the route, and the reason, as a user reads them. */

import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

function explain(example: string, ...args: string[]): string {
  const command = ['src/main.ts', 'explain', '-c', `examples/${example}.yaml`, ...args]
  const { stdout, stderr } = spawnSync(process.execPath, command, { encoding: 'utf8', cwd: root, timeout: 30_000 })
  return (stdout + stderr).replaceAll(/(X-Request-ID: )\S+/g, '$1…').trimEnd()
}

const CASES: [example: string, ...args: string[]][] = [
  ['sidecar', '/anything?x=1'],
  ['lb-tier', 'POST', '/orders'],
  ['jwt-jwks', '/health'],
  ['jwt-jwks', 'https://shop.example.com/api/orders'],
  ['api-key-tiers', '/api/x'],
  ['api-key-tiers', '/api/x', '-H', 'X-API-Key: nobody'],
  ['api-key-tiers', '/other'],
  ['cache', '/api/catalogue/7?utm_source=mail&page=2'],
  ['cache', '/api/x/../catalogue/7'],
  ['canary-mirror', '/api/search?q=a'],
  ['websocket-grpc', 'POST', '/demo.Greeter/SayHello'],
  ['minimal', '/a%2fb'],
]

describe('explain on the examples', () => {
  for (const [example, ...args] of CASES) {
    it(`${example}: ${args.join(' ')}`, () => {
      expect(explain(example, ...args)).toMatchSnapshot()
    })
  }
})

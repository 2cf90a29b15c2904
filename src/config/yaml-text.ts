/** YAML to plain data, for key files beside the config. The library is loaded by the first call, since few gateways need it. */

import { createRequire } from 'node:module'

export function parseYaml(text: string): unknown {
  const { parse } = createRequire(import.meta.url)('yaml') as typeof import('yaml')
  return parse(text, { maxAliasCount: 100 })
}

/** Finding the route, among few and among many. Also by itself. */

import type { MatchConfig } from '../../src/routing/config.ts'
import { Router } from '../../src/routing/router.ts'
import { makeExchange } from '../../test/support/exchanges.ts'
import { printSuites, type Suite, type Timing, time } from './timing.ts'

const route = (match: MatchConfig) => ({ match })

function finding(what: string, matches: MatchConfig[], path: string): Timing {
  const router = new Router(matches.map(route))
  const x = makeExchange(`GET ${path} HTTP/1.1\nHost: shop.example`)
  const input = { path, query: '', method: 'GET', authority: 'shop.example', head: x.request }
  if (router.find(input).route === undefined) throw new Error(`no route takes ${path}`)
  return time(what, () => router.find(input).route)
}

const prefixes = (count: number): MatchConfig[] =>
  Array.from({ length: count }, (_, i) => ({ pathPrefix: `/service-${i}/api` }))
const exact = (count: number): MatchConfig[] => Array.from({ length: count }, (_, i) => ({ path: `/page-${i}` }))

export function measureRouting(): Suite {
  return {
    name: 'routing',
    timings: [
      finding('match the only route', [{ pathPrefix: '/' }], '/orders/7'),
      finding('match an exact path, of 10', exact(10), '/page-7'),
      finding('match a prefix, of 10', prefixes(10), '/service-7/api/orders'),
      finding('match a prefix, of 1000', prefixes(1000), '/service-777/api/orders'),
      finding(
        'match a template by host and method, of 10',
        [
          ...prefixes(9),
          { pathTemplate: '/orders/{id}/items', host: ['*.example'], methods: ['GET'] } as unknown as MatchConfig,
        ],
        '/orders/7/items',
      ),
    ],
    notes: [],
  }
}

if (import.meta.main) printSuites([measureRouting()])

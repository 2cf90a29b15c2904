// @ts-check
/**
 * Load: 1 000, 5 000, then 10 000 users, held for three minutes, over a mix of endpoints.
 *
 *   k6 run -e BASE_URL=http://localhost:8080 -e SCALE=0.1 loadtest/load-test.js
 */

import { check, sleep } from 'k6'
import http from 'k6/http'
import { BASE_URL, note, params, scenarios, summary } from './shared.js'

/** @type {import('k6/options').Options} */
export const options = {
  scenarios: scenarios(
    [
      { seconds: 60, target: 1000 },
      { seconds: 120, target: 5000 },
      { seconds: 120, target: 10_000 },
      { seconds: 180, target: 10_000 },
      { seconds: 120, target: 0 },
    ],
    0.1,
  ),
  thresholds: {
    http_req_duration: ['p(95)<200'],
    served_duration: ['p(95)<200'],
    errors: ['rate<0.001'],
    http_req_failed: ['rate<0.001'],
  },
}

/** About 20 KiB of JSON, made once: what is under test is the gateway. */
const HEAVY = JSON.stringify({
  total: 100,
  items: Array.from({ length: 100 }, (_, id) => ({
    id,
    name: `Item ${id}`,
    description: `This is a description for item ${id}`,
    price: id * 9.99,
    quantity: (id * 37) % 100,
    metadata: { created: '2026-01-01T00:00:00.000Z', updated: '2026-01-01T00:00:00.000Z', tags: ['a', 'b', 'c'] },
  })),
})

/** @param {import('k6/http').RefinedResponse<'text'>} response */
function json(response) {
  try {
    return JSON.parse(response.body)
  } catch {
    return {}
  }
}

const authorization = () => (__ENV.TOKEN ? { Authorization: `Bearer ${__ENV.TOKEN}` } : {})

/**
 * What is asked, by weight. `good` says whether a served answer is the right one; refusals are noted apart.
 * @type {{ weight: number, name: string, ask: () => import('k6/http').RefinedResponse<'text'>, good: (response: import('k6/http').RefinedResponse<'text'>) => boolean }[]}
 */
const MIX = [
  {
    weight: 30,
    name: 'health',
    ask: () => http.get(`${BASE_URL}/health`, params()),
    good: (response) => response.status === 200 && json(response).status === 'healthy',
  },
  {
    weight: 20,
    name: 'ready',
    ask: () => http.get(`${BASE_URL}/ready`, params()),
    good: (response) => response.status === 200 && json(response).ready === true,
  },
  {
    weight: 20,
    name: 'users',
    // Without a token the right answer is 401.
    ask: () => http.get(`${BASE_URL}/api/users`, params(authorization())),
    good: (response) => response.status === 200 || (response.status === 401 && !__ENV.TOKEN),
  },
  {
    weight: 20,
    name: 'echo',
    ask: () => http.post(`${BASE_URL}/api/echo`, HEAVY, params({ 'Content-Type': 'application/json' })),
    good: (response) => response.status === 200 && json(response).echo !== undefined,
  },
  {
    weight: 10,
    name: 'metrics',
    ask: () => http.get(`${BASE_URL}/api/metrics`, params()),
    good: (response) => response.status === 200 || response.status === 401,
  },
]

export default function () {
  let point = Math.random() * 100
  const chosen = MIX.find(({ weight }) => (point -= weight) < 0) ?? MIX[0]
  const response = chosen.ask()
  const good = note(response, chosen.good(response))
  check(response, {
    [`${chosen.name}: served or refused in order`]: () => good || response.status === 503 || response.status === 429,
  })
  // Arrivals are paced by their rate alone.
  if (__ENV.SCENARIO !== 'arrivals') sleep(0.05 + Math.random() * 0.1)
}

export const handleSummary = summary('load')

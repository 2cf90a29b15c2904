/** The tables of the dashboard: what has no history and is shown as it is now. */

import { bytes, count, duration, el, meter, percent, tone } from './format.js'

const COLUMNS = [
  { key: 'name', label: 'Route', text: (r) => r.name, ascending: true },
  {
    key: 'cost',
    label: 'Cost',
    title: 'Places it holds on average: arrivals times duration',
    text: (r) => count(r.cost),
  },
  { key: 'rps', label: 'Req/s', text: (r) => count(r.rps) },
  { key: 'meanMs', label: 'Mean', text: (r) => duration(r.meanMs), optional: true },
  { key: 'p95Ms', label: 'p95', text: (r) => duration(r.p95Ms), tone: (r) => tone(r.p95Ms, 200, 1000) },
  { key: 'errorRate', label: '5xx', text: (r) => percent(r.errorRate), tone: (r) => tone(r.errorRate, 0.001, 0.01) },
  { key: 'bytesOut', label: 'Out/s', text: (r) => bytes(r.bytesOut), optional: true },
]

let sortKey = 'cost'
let descending = true

export function renderRoutes(host, routes) {
  const body = host.lastElementChild
  if (routes.length === 0)
    return body.replaceChildren(el('p', { class: 'empty' }, 'No request has ended in the last minute.'))
  const total = routes.reduce((sum, route) => sum + route.cost, 0)
  const sorted = [...routes].sort((a, b) => {
    const order = typeof a[sortKey] === 'string' ? a[sortKey].localeCompare(b[sortKey]) : a[sortKey] - b[sortKey]
    return descending ? -order : order
  })
  // Keeps the focus of the keyboard over the second's redraw
  const focused = document.activeElement?.dataset?.sort
  const head = COLUMNS.map((column) => {
    const button = el('button', { type: 'button', 'data-sort': column.key, title: column.title }, column.label)
    button.addEventListener('click', () => {
      descending = sortKey === column.key ? !descending : !column.ascending
      sortKey = column.key
      renderRoutes(host, routes)
    })
    const direction = column.key === sortKey ? (descending ? 'descending' : 'ascending') : undefined
    return el('th', { scope: 'col', 'aria-sort': direction, class: column.optional ? 'optional' : undefined }, button)
  })
  const rows = sorted.map((route) =>
    el(
      'tr',
      {},
      ...COLUMNS.map((column) => {
        const cell = el(
          'td',
          { 'data-tone': column.tone?.(route), class: column.optional ? 'optional' : undefined },
          column.text(route),
        )
        if (column.key === 'name') cell.title = route.name
        if (column.key === 'cost') cell.append(meter(total > 0 ? route.cost / total : 0))
        return cell
      }),
    ),
  )
  body.replaceChildren(el('table', {}, el('thead', {}, el('tr', {}, ...head)), el('tbody', {}, ...rows)))
  if (focused !== undefined) body.querySelector(`[data-sort="${focused}"]`)?.focus()
}

const BREAKER_TONE = { closed: 'good', 'half-open': 'warn', open: 'bad' }

export function renderUpstreams(host, upstreams) {
  const body = host.lastElementChild
  if (upstreams.length === 0) return body.replaceChildren(el('p', { class: 'empty' }, 'No upstream is configured.'))
  body.replaceChildren(
    ...upstreams.map((upstream) => {
      const healthy = upstream.endpoints.filter((endpoint) => endpoint.state === 'healthy').length
      const all = upstream.endpoints.length
      const health = el(
        'span',
        { class: 'pill', 'data-tone': healthy === all ? 'good' : healthy === 0 ? 'bad' : 'warn' },
        el('i'),
        `${healthy} of ${all} healthy`,
      )
      const breaker = upstream.breaker
        ? el('span', { class: 'pill', 'data-tone': BREAKER_TONE[upstream.breaker] }, `breaker ${upstream.breaker}`)
        : null
      return el(
        'div',
        { class: 'upstream' },
        el('h3', {}, upstream.name, health, breaker),
        ...upstream.endpoints.map(endpointRow),
      )
    }),
  )
}

function endpointRow(endpoint) {
  const why = [endpoint.state === 'healthy' ? '' : endpoint.state, endpoint.reason].filter(Boolean).join(': ')
  return el(
    'div',
    { class: 'endpoint' },
    el('i', { 'data-state': endpoint.state, title: endpoint.state }),
    el('code', {}, endpoint.url),
    el(
      'span',
      { class: 'load' },
      el('b', {}, count(endpoint.inFlight)),
      ' in flight',
      el('span', { class: 'weight' }, ` · weight ${endpoint.weight}`),
    ),
    why === '' ? null : el('span', { class: 'why' }, why),
  )
}

export function renderThreads(host, threads) {
  const rows = threads.map((thread) =>
    el(
      'tr',
      {},
      el('td', {}, `Thread ${thread.thread}`),
      el('td', {}, count(thread.connections)),
      el(
        'td',
        { 'data-tone': tone(thread.loopUtilization, 0.8, 0.95) },
        percent(thread.loopUtilization),
        meter(thread.loopUtilization, { tone: tone(thread.loopUtilization, 0.8, 0.95) }),
      ),
      el('td', { class: 'optional' }, percent(thread.cpu)),
      el('td', { 'data-tone': tone(thread.loopDelayMs, 50, 200) }, duration(thread.loopDelayMs)),
    ),
  )
  const head = ['Thread', 'Conns', 'Loop busy', 'CPU', 'Delay p99'].map((label) =>
    el('th', { scope: 'col', class: label === 'CPU' ? 'optional' : undefined }, el('span', {}, label)),
  )
  host.lastElementChild.replaceChildren(
    el('table', {}, el('thead', {}, el('tr', {}, ...head)), el('tbody', {}, ...rows)),
  )
}

export function renderTiers(host, tiers, maxCCU) {
  host.hidden = tiers.length === 0
  host.lastElementChild.replaceChildren(
    ...tiers.map((tier) =>
      el(
        'div',
        { class: 'tier' },
        el('b', { title: tier.name }, tier.name),
        meter(tier.ccu / maxCCU, { mark: tier.guarantee / maxCCU, wide: true }),
        el(
          'span',
          {},
          tier.guarantee > 0 ? `${count(tier.ccu)} of ${count(tier.guarantee)}` : count(tier.ccu),
          tier.refused > 0 ? ` · ${count(tier.refused)}/s refused` : '',
        ),
      ),
    ),
  )
}

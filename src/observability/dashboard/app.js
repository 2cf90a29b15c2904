/**
 * The dashboard. Reads fifteen minutes of history once, then one sample a second from the event stream; every part of
 * the page is drawn from the same store, so that all of it shows the same second.
 */

import { Chart, sparkline } from './charts.js'
import { age, bytes, count, duration, el, percent, tone } from './format.js'
import { renderRoutes, renderThreads, renderTiers, renderUpstreams } from './tables.js'

const KEPT = 900
const $ = (id) => document.getElementById(id)
const settings = new URLSearchParams(location.search)

/** Columns of numbers, all as long as `t` (seconds since 1970), oldest first. */
const store = { t: [], numbers: {}, refusals: {}, limits: {}, tiers: {}, latest: null, version: '' }
let range = Number(remembered('range')) || 300
let paused = false
/** The store as it is drawn. */
let shown = store

const column = (name) => shown.numbers[name] ?? []
const combine = (names, f) => shown.t.map((_, i) => f(...names.map((name) => column(name)[i] ?? 0)))
const hitRate = (hits, stale, misses) => (hits + stale + misses > 0 ? (hits + stale) / (hits + stale + misses) : null)

const REASON_COLOURS = ['rose', 'violet', 'amber', 'sky', 'teal', 'lime', 'slate']

/** The largest named columns of the time shown; the rest is `other`. */
function named(columns, most) {
  const totals = Object.entries(columns)
    .map(([label, values]) => ({ label, values, total: values.reduce((sum, v) => sum + (v ?? 0), 0) }))
    .filter((entry) => entry.total > 0)
    .sort((a, b) => b.total - a.total)
  const largest = totals.slice(0, most)
  const rest = totals.slice(most)
  if (rest.length > 0) {
    largest.push({
      label: 'other',
      values: shown.t.map((_, i) => rest.reduce((sum, { values }) => sum + (values[i] ?? 0), 0)),
    })
  }
  return largest.map(({ label, values }, i) => ({ label, values, colour: REASON_COLOURS[i % REASON_COLOURS.length] }))
}

/** What a group of seconds is shown as: its worst where that is what matters, else its mean. */
const WORST = new Set(['queueWaitMs', 'p50', 'p95', 'p99', 'max', 'loopDelayMs'])
/** Taken from the second with the most exchanges, so that the parts still add up. */
const OF_FULLEST = new Set(['ccu', 'inService', 'queued'])

/** The store at the resolution of the range: one point for 1, 2 or 5 seconds. */
function grouped() {
  const size = range > 300 ? 5 : range > 60 ? 2 : 1
  const { t, numbers } = store
  const from = Math.max(0, t.length - range - size)
  const groups = []
  for (let i = from; i < t.length; i++) {
    // By the clock, so that a point stays what it is while time goes on
    const key = Math.floor(t[i] / size)
    if (groups.at(-1)?.key !== key) groups.push({ key, start: i, end: i })
    groups.at(-1).end = i + 1
  }
  const ccu = numbers.ccu ?? []
  const fullest = groups.map(({ start, end }) => {
    let at = start
    for (let i = start; i < end; i++) if (ccu[i] > ccu[at]) at = i
    return at
  })
  const shrink = (values, name) =>
    groups.map(({ start, end }, g) => {
      if (OF_FULLEST.has(name)) return values[fullest[g]]
      const known = values.slice(start, end).filter((v) => v !== null)
      if (known.length === 0) return null
      return WORST.has(name) ? Math.max(...known) : known.reduce((sum, v) => sum + v, 0) / known.length
    })
  const all = (columns) =>
    Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, shrink(values, name)]))
  shown = {
    ...store,
    t: groups.map(({ end }) => t[end - 1]),
    numbers: all(numbers),
    refusals: all(store.refusals),
    limits: all(store.limits),
    tiers: all(store.tiers),
  }
}

/** What a chart's series are in the newest second, by label: a point of the chart may stand for several. */
function newest({ series }) {
  const last = (columns) =>
    Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values.slice(-1)]))
  const drawn = shown
  shown = {
    ...store,
    t: store.t.slice(-1),
    numbers: last(store.numbers),
    refusals: last(store.refusals),
    limits: last(store.limits),
    tiers: last(store.tiers),
  }
  const values = new Map(series(shown).map((s) => [s.label, s.values[0]]))
  shown = drawn
  return values
}

const whole = (value) => count(value === null || value === undefined ? value : Math.round(value))
const perSecond = (value) => `${count(value)}/s`

const CCU = {
  title: 'Concurrent exchanges over time',
  stacked: true,
  format: whole,
  series: () => [
    { label: 'In service', colour: 'blue', values: column('inService') },
    { label: 'Queued', colour: 'violet', values: column('queued') },
  ],
  // To the cap when the load is near it, else to the data: 30 of 5000 would be a line on the floor
  max: ({ latest }, dataMax) =>
    latest.maxCCU > 0 && dataMax > latest.normalCCU * 0.4 ? Math.max(latest.maxCCU, dataMax) * 1.16 : dataMax * 1.3,
  least: 5,
  zones: ({ latest }) =>
    latest.maxCCU === 0
      ? []
      : [
          { from: 0, to: latest.normalCCU, colour: 'good' },
          { from: latest.normalCCU, to: latest.maxCCU, colour: 'warn' },
          { from: latest.maxCCU, to: latest.maxCCU * 2, colour: 'bad' },
          { at: latest.normalCCU, colour: 'warn', label: `normal ${count(latest.normalCCU)}` },
          { at: latest.maxCCU, colour: 'bad', label: `cap ${count(latest.maxCCU)}` },
        ],
}

const CHARTS = [
  {
    title: 'Requests',
    stacked: true,
    format: count,
    series: () => [
      { label: '2xx', colour: 'teal', values: column('status2xx'), format: perSecond },
      { label: '3xx', colour: 'sky', values: column('status3xx'), format: perSecond },
      { label: '4xx', colour: 'amber', values: column('status4xx'), format: perSecond },
      { label: '5xx', colour: 'bad', values: column('status5xx'), format: perSecond },
    ],
  },
  {
    title: 'Latency',
    format: duration,
    quiet: 'No request has ended',
    series: () => [
      { label: 'p50', colour: 'sky', values: column('p50'), area: true },
      { label: 'p95', colour: 'blue', values: column('p95') },
      { label: 'p99', colour: 'violet', values: column('p99') },
    ],
  },
  {
    title: 'Queue',
    least: 5,
    rightFormat: duration,
    series: () => [
      { label: 'Waiting', colour: 'violet', values: column('queued'), area: true },
      { label: 'Mean wait', colour: 'amber', values: column('queueWaitMs'), format: duration, right: true },
    ],
  },
  {
    title: 'Refusals and errors of the gateway by reason',
    stacked: true,
    quiet: 'Nothing was refused',
    series: () => named(shown.refusals, 6).map((s) => ({ ...s, label: reasonLabel(s.label), format: perSecond })),
  },
  {
    title: 'Rate limits by policy',
    stacked: true,
    quiet: 'Nobody was limited',
    series: () => named(shown.limits, 6).map((s) => ({ ...s, format: perSecond })),
  },
  {
    title: 'Cache',
    quiet: 'No cached route was asked',
    format: percent,
    rightFormat: count,
    max: () => 1,
    series: () => [
      {
        label: 'Hit rate',
        colour: 'teal',
        area: true,
        values: combine(['cacheHits', 'cacheStale', 'cacheMisses'], hitRate),
      },
      {
        label: 'Lookups',
        colour: 'slate',
        right: true,
        format: perSecond,
        values: combine(['cacheHits', 'cacheStale', 'cacheMisses'], (a, b, c) => a + b + c),
      },
    ],
  },
  {
    title: 'Tiers',
    onlyWith: 'tiers',
    stacked: true,
    format: whole,
    series: () => named(shown.tiers, 6),
  },
  {
    title: 'CPU and event loop',
    format: (cores) => (cores < 10 ? cores.toFixed(cores < 1 ? 2 : 1) : count(cores)),
    rightFormat: duration,
    least: 0.1,
    series: () => [
      { label: 'Cores', colour: 'blue', values: column('cpu'), area: true, format: (v) => (v ?? 0).toFixed(2) },
      { label: 'Loop delay p99', colour: 'rose', values: column('loopDelayMs'), right: true, format: duration },
    ],
  },
  {
    title: 'Memory',
    format: bytes,
    series: () => [
      { label: 'Resident', colour: 'violet', values: column('rssBytes'), area: true },
      { label: 'Heap', colour: 'sky', values: column('heapBytes') },
    ],
  },
  {
    title: 'Connections',
    least: 5,
    series: () => [
      { label: 'Clients', colour: 'blue', values: column('connections') },
      { label: 'Upstream', colour: 'teal', values: column('poolOpen') },
      { label: 'Idle upstream', colour: 'slate', values: column('poolIdle') },
      { label: 'Streams', colour: 'amber', values: column('streams') },
    ],
  },
  {
    title: 'Traffic',
    format: bytes,
    series: () => [
      { label: 'Out', colour: 'blue', values: column('bytesOut'), area: true, format: (v) => `${bytes(v)}/s` },
      { label: 'In', colour: 'teal', values: column('bytesIn'), format: (v) => `${bytes(v)}/s` },
    ],
  },
]

/** `BACKPRESSURE/CCU_FULL` → `CCU_FULL`: the reason says more than its code. */
const reasonLabel = (name) => name.split('/').at(-1)

const TILES = [
  { label: 'Requests', unit: '/s', value: (s) => count(s.rps), values: () => column('rps') },
  {
    label: 'Active users',
    unit: 'last minute',
    value: (s) => count(s.activeUsers),
    values: () => column('activeUsers'),
  },
  {
    label: 'p95 latency',
    value: (s) => duration(s.p95),
    tone: (s) => tone(s.p95, 200, 1000),
    values: () => column('p95'),
  },
  {
    label: 'Server errors',
    value: (s) => percent(s.rps > 0 ? s.status5xx / s.rps : 0),
    tone: (s) => tone(s.rps > 0 ? s.status5xx / s.rps : 0, 0.001, 0.01),
    values: () => column('status5xx'),
  },
  {
    label: 'Refused',
    unit: '/s',
    value: (s) => count(s.refused),
    tone: (s) => tone(s.shed, 0, s.rps * 0.01),
    values: () => column('refused'),
  },
  {
    label: 'Queued',
    unit: (s) => (s.queueWaitMs === null ? '' : `waited ${duration(s.queueWaitMs)}`),
    value: (s) => count(s.queued),
    tone: (s) => tone(s.queueCapacity > 0 ? s.queued / s.queueCapacity : 0, 0.5, 0.8),
    values: () => column('queued'),
  },
  { label: 'Rate limited', unit: '/s', value: (s) => count(s.limited), values: () => column('limited') },
  {
    label: 'Cache hit rate',
    value: (s) => percent(hitRate(s.cacheHits, s.cacheStale, s.cacheMisses)),
    values: () => combine(['cacheHits', 'cacheStale', 'cacheMisses'], hitRate),
  },
  {
    label: 'Loop delay p99',
    value: (s) => duration(s.loopDelayMs),
    tone: (s) => tone(s.loopDelayMs, 50, 200),
    values: () => column('loopDelayMs'),
  },
]

const tiles = TILES.map((spec) => {
  const node = el('article', { class: 'card tile' }, el('h2', {}, spec.label), el('p'))
  $('tiles').append(node)
  return { spec, node }
})

let charts = []

function makeCharts() {
  charts = [{ spec: CCU, chart: new Chart($('chart-ccu'), CCU) }]
  for (const spec of CHARTS) {
    const card = el('article', { class: 'card' }, el('header', {}, el('h2', {}, spec.title)))
    $('charts').append(card)
    charts.push({ spec, card, chart: new Chart(card, spec) })
  }
}

const ZONES = {
  normal: ['good', 'Normal'],
  peak: ['warn', 'Peak: above normal capacity'],
  full: ['bad', 'At the cap: refusing'],
}

function renderNow(s) {
  $('ccu').textContent = count(s.ccu)
  $('ccu-cap').textContent = s.maxCCU > 0 ? `of ${count(s.maxCCU)}` : 'no cap'
  const zone = s.maxCCU === 0 || s.ccu <= s.normalCCU ? 'normal' : s.ccu < s.maxCCU ? 'peak' : 'full'
  setPill($('zone'), ...ZONES[zone])
  const share = (n) => `${s.maxCCU > 0 ? Math.min(100, (n / s.maxCCU) * 100) : 0}%`
  const [normal, peak, inService, queued, normalTick, capTick] = $('zones').children
  $('zones').hidden = s.maxCCU === 0
  normal.style.width = share(s.normalCCU)
  peak.style.left = share(s.normalCCU)
  peak.style.width = share(s.maxCCU - s.normalCCU)
  inService.style.width = share(s.inService)
  queued.style.left = share(s.inService)
  queued.style.width = share(s.queued)
  normalTick.style.left = share(s.normalCCU)
  normalTick.textContent = `normal ${count(s.normalCCU)}`
  capTick.textContent = `cap ${count(s.maxCCU)}`
  const fact = (label, value, colour) => {
    const swatch = colour ? el('i') : null
    if (swatch) swatch.style.background = `var(--${colour})`
    return el('div', {}, el('dt', {}, swatch, label), el('dd', {}, value))
  }
  $('ccu-facts').replaceChildren(
    fact('In service', count(s.inService), 'blue'),
    fact('Queued', count(s.queued), 'violet'),
    fact('Streams', count(s.streams)),
    fact('Workers', count(s.workers)),
    fact('Queue places', count(s.queueCapacity)),
    fact('Clients', count(s.connections)),
  )
  $('about').textContent = [store.version, `up ${age(s.uptimeSec)}`, s.readiness].filter(Boolean).join(' · ')
  document.title = `${count(s.ccu)} CCU · ${count(s.rps)} req/s · Fluxor Gateway`
}

function renderTiles(s) {
  for (const { spec, node } of tiles) {
    const unit = typeof spec.unit === 'function' ? spec.unit(s) : spec.unit
    node.querySelector('p').replaceChildren(spec.value(s), unit ? el('small', {}, unit) : '')
    node.querySelector('svg')?.remove()
    node.append(sparkline(spec.values()))
    node.dataset.tone = spec.tone?.(s) ?? ''
  }
}

function render() {
  const { latest } = store
  if (latest === null || document.hidden) return
  grouped()
  renderNow(latest)
  renderTiles(latest)
  const view = { store: shown, now: latest.t / 1000, range }
  for (const { spec, card, chart } of charts) {
    if (spec.onlyWith !== undefined) card.hidden = Object.keys(store[spec.onlyWith]).length === 0
    if (!card?.hidden) chart.update({ ...view, newest: newest(spec) })
  }
  $('charts').classList.toggle('without-tiers', Object.keys(store.tiers).length === 0)
  renderRoutes($('routes'), latest.routes)
  renderUpstreams($('upstreams'), latest.upstreams)
  renderThreads($('threads'), latest.threads)
  renderTiers($('tiers'), latest.tiers, latest.maxCCU)
}

function append(sample) {
  const t = sample.t / 1000
  if (store.t.length > 0 && t <= store.t.at(-1)) return
  store.t.push(t)
  const length = store.t.length
  for (const name of Object.keys(sample)) {
    const value = sample[name]
    if (name !== 't' && (typeof value === 'number' || value === null)) push(store.numbers, name, value, length, null)
  }
  const tiers = Object.fromEntries(sample.tiers.map((tier) => [tier.name, tier.ccu]))
  for (const [columns, values] of [
    [store.refusals, sample.refusals],
    [store.limits, sample.limits],
    [store.tiers, tiers],
  ]) {
    for (const name of new Set([...Object.keys(columns), ...Object.keys(values)]))
      push(columns, name, values[name] ?? 0, length, 0)
  }
  if (length > KEPT) {
    store.t.shift()
    for (const columns of [store.numbers, store.refusals, store.limits, store.tiers]) {
      for (const values of Object.values(columns)) values.shift()
    }
  }
  store.latest = sample
}

function push(columns, name, value, length, before) {
  columns[name] ??= new Array(length - 1).fill(before)
  columns[name].push(value)
}

function setPill(node, toneName, text) {
  node.dataset.tone = toneName
  node.lastElementChild.textContent = text
}

async function load() {
  const response = await fetch('/dashboard/history')
  if (response.status === 401) location.assign('/login?next=/dashboard')
  if (!response.ok) throw new Error(`the history was answered ${response.status}`)
  const history = await response.json()
  const columns = (from) => Object.assign(Object.create(null), from)
  Object.assign(store, {
    t: history.t.map((t) => t / 1000),
    numbers: columns(history.numbers),
    refusals: columns(history.refusals),
    limits: columns(history.limits),
    tiers: columns(history.tiers),
    latest: history.latest,
    version: history.version,
  })
  render()
}

function follow() {
  const events = new EventSource('/dashboard/events')
  let missed = false
  events.addEventListener('open', () => {
    setPill($('live'), 'good', 'Live')
    // What was missed while the stream was down stands in the history
    if (missed) load().catch(() => {})
    missed = false
  })
  events.addEventListener('error', () => {
    missed = true
    setPill($('live'), 'bad', 'Reconnecting')
    if (events.readyState === EventSource.CLOSED) setTimeout(follow, 3000)
  })
  events.addEventListener('message', (event) => {
    if (paused) return
    append(JSON.parse(event.data))
    render()
  })
}

function remembered(name) {
  if (settings.has(name)) return settings.get(name)
  try {
    return localStorage.getItem(`fluxor-${name}`)
  } catch {
    return null // storage is forbidden: nothing is remembered
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`fluxor-${name}`, value)
  } catch {
    // as above
  }
}

const THEMES = ['auto', 'light', 'dark']
function setTheme(theme) {
  document.documentElement.dataset.theme = theme
  $('theme').textContent = theme[0].toUpperCase() + theme.slice(1)
  for (const { chart } of charts) chart.rebuild()
}

function setRange(seconds) {
  range = seconds
  for (const button of $('ranges').children)
    button.setAttribute('aria-pressed', String(Number(button.dataset.range) === range))
  render()
}

$('ranges').addEventListener('click', ({ target }) => {
  if (target.dataset.range === undefined) return
  remember('range', target.dataset.range)
  setRange(Number(target.dataset.range))
})
$('pause').addEventListener('click', () => {
  paused = !paused
  $('pause').setAttribute('aria-pressed', String(paused))
  $('pause').textContent = paused ? 'Resume' : 'Pause'
  if (!paused) load().catch(() => {})
})
$('theme').addEventListener('click', () => {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]
  remember('theme', theme)
  setTheme(theme)
})
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  for (const { chart } of charts) chart.rebuild()
})
document.addEventListener('visibilitychange', render)

setTheme(THEMES.includes(remembered('theme')) ? remembered('theme') : 'auto')
makeCharts()
setRange([60, 300, 900].includes(range) ? range : 300)
load()
  .catch((error) => setPill($('live'), 'bad', error.message))
  .finally(follow)

/** Time series on uPlot: one description a chart, one cursor for all of them, values in the legend. */

import { bytes, clock, count, el } from './format.js'

const STACKED_ALPHA = 0.72
/** 1, 2, 4 … 512 of each unit. */
const BYTE_STEPS = Array.from({ length: 50 }, (_, i) => 2 ** i)

const probe = document.createElement('span')
probe.hidden = true
document.body.append(probe)

/** The colour a custom property has now, as `rgb(…)`. */
function colour(name, alpha = 1) {
  probe.style.color = `var(--${name})`
  const rgb = getComputedStyle(probe)
    .color.match(/[\d.]+/g)
    .slice(0, 3)
  return `rgb(${rgb.join(' ')} / ${alpha})`
}

/**
 * @param {HTMLElement} host
 * @param {object} spec
 *   series(store): { label, colour, values, format?, right?, dash? }[] — called at each update;
 *   stacked, zones(store), max(store), format, rightFormat, quiet (text when there is nothing)
 */
export class Chart {
  #spec
  #plot
  #legend
  #quiet
  #u = null
  #series = []
  #key = ''
  #view = null

  constructor(host, spec) {
    this.#spec = spec
    this.#legend = el('ul', { class: 'legend' })
    this.#plot = el('div', { class: 'plot', role: 'img', 'aria-label': spec.title })
    this.#quiet = el('p', { class: 'quiet' }, spec.quiet ?? '')
    this.#plot.append(this.#quiet)
    host.append(this.#legend, this.#plot)
    new ResizeObserver(() => this.#resize()).observe(this.#plot)
  }

  /** @param view { store, now, range, newest }: what is shown, in seconds, and the values of the newest second by label */
  update(view) {
    this.#view = view
    this.#series = this.#spec.series(view.store)
    const key = this.#series.map((s) => `${s.label} ${s.colour}`).join('|')
    if (this.#u === null || key !== this.#key) this.#build(key)
    this.#u.setData(this.#data(), false)
    this.#u.redraw(true, true)
    this.#u.batch(() => this.#u.setScale('x', { min: view.now - view.range, max: view.now }))
    const from = view.store.t.findIndex((t) => t >= view.now - view.range)
    const isQuiet = this.#spec.quiet !== undefined && !this.#series.some((s) => s.values.some((v, i) => i >= from && v))
    this.#quiet.hidden = !isQuiet
    this.#showValues()
  }

  /** After a change of colours. */
  rebuild() {
    this.#key = ''
    if (this.#view !== null) this.update(this.#view)
  }

  #data() {
    const { store } = this.#view
    if (!this.#spec.stacked) return [store.t, ...this.#series.map((s) => s.values)]
    const sums = []
    let below = null
    for (const { values } of this.#series) {
      const upper = new Array(values.length)
      for (let i = 0; i < values.length; i++) upper[i] = (below === null ? 0 : below[i]) + (values[i] ?? 0)
      sums.push(upper)
      below = upper
    }
    return [store.t, ...sums]
  }

  #build(key) {
    this.#key = key
    this.#u?.destroy()
    const { stacked, format = count, rightFormat, max, zones, least = 1, rightLeast = 1 } = this.#spec
    const soft = colour('soft')
    const axis = { stroke: soft, font: '11px system-ui, sans-serif', ticks: { show: false } }
    const hasRight = this.#series.some((s) => s.right)
    const top = (_u, _min, dataMax) => [
      0,
      Math.max(least, max?.(this.#view.store, dataMax ?? 0) ?? (dataMax ?? 0) * 1.12),
    ]
    const topRight = (_u, _min, dataMax) => [0, Math.max(rightLeast, (dataMax ?? 0) * 1.12)]
    const yAxis = (form) => ({
      ...axis,
      incrs: form === bytes ? BYTE_STEPS : undefined,
      space: 26,
      size: (_u, labels) => 14 + 6.4 * Math.max(3, ...(labels ?? []).map((label) => label?.length ?? 0)),
      values: (_u, splits) => splits.map((v) => form(v)),
    })
    const options = {
      ...this.#size(),
      legend: { show: false },
      padding: [8, hasRight ? 0 : 16, 0, 0],
      cursor: {
        drag: { x: false, y: false },
        y: false,
        sync: { key: 'fluxor', scales: ['x', null] },
        points: { size: 7, width: 0, fill: (u, i) => u.series[i].stroke(u, i) },
      },
      scales: {
        x: { time: true, auto: false },
        y: { range: top },
        ...(hasRight ? { right: { range: topRight } } : {}),
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          space: 68,
          size: 24,
          values: (_u, splits) =>
            splits.map((s) =>
              clock(
                s,
                splits.some((split) => split % 60 !== 0),
              ),
            ),
        },
        { ...yAxis(format), grid: { stroke: colour('grid'), width: 1 } },
        ...(hasRight ? [{ ...yAxis(rightFormat ?? format), scale: 'right', side: 1, grid: { show: false } }] : []),
      ],
      series: [{}, ...this.#series.map((s, i) => this.#seriesOptions(s, i))],
      bands: stacked
        ? this.#series.slice(1).map((s, i) => ({ series: [i + 2, i + 1], fill: colour(s.colour, STACKED_ALPHA) }))
        : [],
      hooks: {
        drawClear: zones ? [(u) => drawBands(u, zones(this.#view.store))] : [],
        draw: zones ? [(u) => drawLines(u, zones(this.#view.store))] : [],
        setCursor: [() => this.#showValues()],
      },
    }
    this.#u = new uPlot(options, this.#data(), this.#plot)
    this.#legend.replaceChildren(
      ...this.#series.map((s) => {
        const swatch = el('i')
        swatch.style.background = `var(--${s.colour})`
        return el('li', { title: s.label }, swatch, s.label, el('b'))
      }),
      el('time'),
    )
  }

  #seriesOptions(s, i) {
    const { stacked } = this.#spec
    const line = colour(s.colour)
    const fill = stacked ? colour(s.colour, STACKED_ALPHA) : s.area ? colour(s.colour, 0.16) : undefined
    return {
      scale: s.right ? 'right' : 'y',
      stroke: line,
      width: stacked ? 0 : 1.6,
      dash: s.dash,
      fill: stacked && i > 0 ? undefined : fill,
      points: stacked ? { show: false } : { show: true, size: 4, fill: line, filter: isolated },
    }
  }

  #size() {
    return { width: Math.max(120, this.#plot.clientWidth), height: Math.max(100, this.#plot.clientHeight) }
  }

  #resize() {
    if (this.#u !== null) this.#u.setSize(this.#size())
  }

  #showValues() {
    if (this.#view === null || this.#u === null) return
    const { t } = this.#view.store
    const hovered = this.#u.cursor.idx ?? null
    const items = this.#legend.children
    for (const [i, s] of this.#series.entries()) {
      if (items[i] !== undefined)
        items[i].lastChild.textContent = (s.format ?? this.#spec.format ?? count)(
          hovered === null ? (this.#view.newest.get(s.label) ?? (this.#spec.stacked ? 0 : null)) : s.values[hovered],
        )
    }
    this.#legend.lastChild.textContent = hovered === null ? '' : clock(t[hovered])
  }
}

/** Points stand only where a line cannot: between two gaps. */
function isolated(u, seriesIndex) {
  const values = u.data[seriesIndex]
  const [from, to] = u.series[0].idxs ?? [0, values.length - 1]
  const found = []
  for (let i = from; i <= to; i++) {
    if (values[i] !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null) found.push(i)
  }
  return found
}

function clipped(u, paint) {
  const { ctx } = u
  const { left, top, width, height } = u.bbox
  ctx.save()
  ctx.beginPath()
  ctx.rect(left, top, width, height)
  ctx.clip()
  paint(ctx, left, width)
  ctx.restore()
}

/** Tinted bands behind the data: zones with `from`, `to` and `colour`. */
function drawBands(u, zones) {
  clipped(u, (ctx, left, width) => {
    for (const zone of zones) {
      if (zone.at !== undefined) continue
      const upper = u.valToPos(zone.to, 'y', true)
      ctx.fillStyle = colour(zone.colour, 0.09)
      ctx.fillRect(left, upper, width, u.valToPos(zone.from, 'y', true) - upper)
    }
  })
}

/** Lines over the data: zones with `at`, `colour` and `label`. */
function drawLines(u, zones) {
  const ratio = devicePixelRatio
  clipped(u, (ctx, left, width) => {
    for (const zone of zones) {
      if (zone.at === undefined) continue
      const y = Math.round(u.valToPos(zone.at, 'y', true)) + 0.5
      ctx.strokeStyle = colour(zone.colour, 0.85)
      ctx.lineWidth = ratio
      ctx.setLineDash([5 * ratio, 4 * ratio])
      ctx.beginPath()
      ctx.moveTo(left, y)
      ctx.lineTo(left + width, y)
      ctx.stroke()
      ctx.fillStyle = colour(zone.colour)
      ctx.font = `600 ${11 * ratio}px system-ui, sans-serif`
      ctx.textAlign = 'left'
      ctx.textBaseline = 'bottom'
      ctx.fillText(zone.label, left + 6 * ratio, y - 3 * ratio)
    }
  })
}

/** A small line for a tile, as SVG. */
export function sparkline(values) {
  const NS = 'http://www.w3.org/2000/svg'
  const svg = document.createElementNS(NS, 'svg')
  svg.setAttribute('viewBox', '0 0 100 32')
  svg.setAttribute('preserveAspectRatio', 'none')
  svg.setAttribute('aria-hidden', 'true')
  const most = Math.max(...values.map((v) => v ?? 0), 1e-9)
  const step = 100 / Math.max(1, values.length - 1)
  const points = values.map((v, i) => `${(i * step).toFixed(2)} ${(30 - ((v ?? 0) / most) * 26).toFixed(2)}`)
  for (const [name, d] of [
    ['area', `M0 32L${points.join('L')}L100 32Z`],
    ['line', `M${points.join('L')}`],
  ]) {
    const path = document.createElementNS(NS, 'path')
    path.setAttribute('class', name)
    path.setAttribute('d', d)
    svg.append(path)
  }
  return svg
}

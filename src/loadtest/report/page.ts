/**
 * The frame of an HTML report: one file with its style, its plots and one small script inside. It asks the network for
 * nothing, and its content security policy says so.
 */

import { type Chart, chartData, chartSvg, escapeHtml } from './chart.ts'

const STYLE = `
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#18202b;--soft:#5b6675;--rule:#e3e7ec;--grid:#edf0f3;
--pass:#12805c;--fail:#c8322b;--invalid:#a8660b;--p50:#1f9e89;--p95:#2f6fdb;--p99:#d9822b;--max:#9aa5b1;--level:#6b5bd2;
--s2xx:#2aa876;--s3xx:#57b8c9;--s4xx:#e0a638;--s429:#d97a2b;--shed:#8266d4;--s5xx:#d64545;--none:#6b7683;--lag:#b4557f}
@media (prefers-color-scheme:dark){:root{--bg:#10141a;--card:#181e27;--ink:#e7ebf0;--soft:#95a1b0;--rule:#29313d;--grid:#222a35;
--pass:#3cc48f;--fail:#f0716a;--invalid:#e5ac4f;--p50:#3fc6ae;--p95:#6ba1f7;--p99:#efa65c;--max:#66717f;--level:#9c8ff0;
--s2xx:#35b884;--s3xx:#5fc3d4;--s4xx:#e5b04d;--s429:#e38a41;--shed:#9d85ea;--s5xx:#ea6a64;--none:#7b8695;--lag:#d4789f}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1480px;margin:0 auto;padding:28px 28px 40px}
header{display:flex;flex-wrap:wrap;gap:6px 20px;align-items:center;margin-bottom:22px}
h1{font-size:25px;line-height:1.2;margin:0;letter-spacing:-.01em}
header p{margin:0;color:var(--soft);flex-basis:100%}
.verdict{font-weight:700;letter-spacing:.06em;font-size:14px;padding:5px 13px;border-radius:99px;color:#fff;background:var(--pass)}
.verdict.FAIL{background:var(--fail)}.verdict.INVALID{background:var(--invalid)}
@media (prefers-color-scheme:dark){.verdict{color:#0d1117}}
.why{border-left:4px solid var(--fail);background:var(--card);padding:12px 18px;border-radius:0 8px 8px 0;margin:0 0 20px}
.why.INVALID{border-color:var(--invalid)}.why ul{margin:4px 0 0;padding-left:18px}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:14px;margin-bottom:20px}
.figure,.card{background:var(--card);border:1px solid var(--rule);border-radius:10px}
.figure{padding:13px 16px}.figure b{display:block;font-size:23px;font-weight:650;letter-spacing:-.02em;line-height:1.25}
.figure span{color:var(--soft);font-size:13px}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:18px}
.card{padding:16px 18px 14px;margin:0;position:relative;min-width:0}
.card h2{font-size:16px;margin:0}.card .about{margin:1px 0 8px;color:var(--soft);font-size:13px}
.wide{margin-top:18px}
svg{display:block;width:100%;height:auto;overflow:visible;touch-action:pan-y}
svg text{fill:var(--soft);font-size:11.5px}svg text.y{text-anchor:end;dominant-baseline:central}svg text.x{text-anchor:middle}
svg text.x[text-anchor=end]{text-anchor:end}
svg text.mark{fill:var(--fail);text-anchor:end;font-weight:600}svg text.left{text-anchor:start}
.grid{stroke:var(--grid);fill:none}.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.dashed{stroke-dasharray:5 4}.area{opacity:.16}.stack{opacity:.92;stroke:var(--card);stroke-width:.6}
path.mark{stroke:var(--fail);stroke-width:1.3;stroke-dasharray:6 4;fill:none}.cursor{stroke:var(--soft);stroke-width:1;visibility:hidden}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;margin:8px 0 0;padding:0;list-style:none;font-size:13px;color:var(--soft)}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.tip{position:absolute;pointer-events:none;background:var(--ink);color:var(--card);font-size:12.5px;line-height:1.45;padding:7px 10px;border-radius:7px;white-space:nowrap;z-index:2;display:none}
.tip i{display:inline-block;width:8px;height:8px;border-radius:2px;margin-right:6px}.tip b{font-weight:600}
table{border-collapse:collapse;width:100%;font-size:14px}th{font-weight:600;color:var(--soft);font-size:13px}
th,td{text-align:right;padding:6px 10px;border-bottom:1px solid var(--rule)}tr:last-child td{border-bottom:0}
th:first-child,td:first-child{text-align:left;padding-left:0}td:last-child,th:last-child{padding-right:0}
td.PASS{color:var(--pass);font-weight:700}td.FAIL{color:var(--fail);font-weight:700}
.scroll{overflow-x:auto}th,td{white-space:nowrap}td.name{white-space:normal;overflow-wrap:break-word}
pre{margin:6px 0 0;padding:14px 16px;background:var(--bg);border-radius:8px;overflow-x:auto;font:13.5px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:6px 0 0;font-size:14px}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
footer{color:var(--soft);font-size:13px;margin-top:24px}
@media (max-width:600px){main{padding:18px 14px}}
@media print{body{background:#fff}.card,.figure{break-inside:avoid}}
`

/** Shows the values under the pointer; plots over time point at the same moment together. */
const SCRIPT = `
(() => {
  const charts = JSON.parse(document.getElementById('charts').textContent)
  const short = (n) => String(Number(n.toPrecision(3)))
  const say = {
    ms: (v) => v >= 1000 ? short(v / 1000) + ' s' : v >= 1 || v === 0 ? short(v) + ' ms' : short(v * 1000) + ' µs',
    bytes: (v) => short(v / 1048576) + ' MiB', cores: (v) => short(v * 100) + ' %',
    perSecond: (v) => short(v) + '/s', count: (v) => v.toLocaleString('en').replaceAll(',', ' '),
  }
  const views = charts.map((chart) => {
    const card = document.getElementById(chart.id)
    return { chart, card, svg: card.querySelector('svg'), cursor: card.querySelector('.cursor'), tip: card.querySelector('.tip') }
  })
  const shareOf = ({ chart }, at) => {
    const first = chart.x[0], last = chart.x[chart.x.length - 1]
    return chart.left + (chart.right - chart.left) * (last > first ? (at - first) / (last - first) : 0)
  }
  const nearest = (chart, at) => chart.x.reduce((best, x, i) => Math.abs(x - at) < Math.abs(chart.x[best] - at) ? i : best, 0)
  const hide = () => views.forEach((view) => { view.tip.style.display = 'none'; view.cursor.style.visibility = 'hidden' })
  for (const view of views) {
    view.svg.addEventListener('pointerleave', hide)
    view.svg.addEventListener('pointermove', (event) => {
      const { chart, svg, card, tip } = view
      const box = svg.getBoundingClientRect()
      const inside = ((event.clientX - box.left) / box.width - chart.left) / (chart.right - chart.left)
      const first = chart.x[0], last = chart.x[chart.x.length - 1]
      const at = first + Math.min(1, Math.max(0, inside)) * (last - first)
      const i = nearest(chart, at)
      hide()
      for (const other of views) {
        if (other !== view && !(chart.overTime && other.chart.overTime)) continue
        other.cursor.setAttribute('transform', 'translate(' + shareOf(other, other.chart.x[nearest(other.chart, chart.x[i])]) * other.chart.width + ' 0)')
        other.cursor.style.visibility = 'visible'
      }
      tip.replaceChildren()
      const line = (text, colour) => {
        const row = document.createElement(colour ? 'div' : 'b')
        if (colour) { const dot = document.createElement('i'); dot.style.background = 'var(' + colour + ')'; row.append(dot) }
        row.append(text)
        tip.append(row)
      }
      line(chart.names[i])
      for (const { name, colour, values } of chart.series) if (values[i] !== null && values[i] !== undefined) line(name + '  ' + say[chart.unit](values[i]), colour)
      tip.style.display = 'block'
      const outer = card.getBoundingClientRect()
      const x = box.left - outer.left + shareOf(view, chart.x[i]) * box.width
      tip.style.left = (x + 14 + tip.offsetWidth > outer.width ? x - 14 - tip.offsetWidth : x + 14) + 'px'
      tip.style.top = Math.max(8, event.clientY - outer.top - tip.offsetHeight - 10) + 'px'
    })
  }
})()
`

export function chartCard(chart: Chart): string {
  const legend = chart.series
    .map(({ name, colour }) => `<li><i style="background:var(${colour})"></i>${escapeHtml(name)}</li>`)
    .join('')
  return (
    `<figure class="card" id="${chart.id}"><h2>${escapeHtml(chart.title)}</h2><p class="about">${escapeHtml(chart.about)}</p>` +
    `${chartSvg(chart)}<ul class="legend">${legend}</ul><div class="tip"></div></figure>`
  )
}

/** A number stays in one piece. */
const figure = (text: string): string => escapeHtml(text).replace(/(\d) (?=\d)/g, '$1&nbsp;')

export interface Page {
  readonly title: string
  readonly verdict: string
  /** One line under the title. */
  readonly about: string
  /** Why the verdict is not PASS. */
  readonly reasons: readonly string[]
  readonly figures: readonly { readonly value: string; readonly label: string }[]
  readonly charts: readonly Chart[]
  /** A card that stands behind the plots, in their grid. HTML, already escaped. */
  readonly beside?: string
  /** HTML, already escaped. */
  readonly sections: readonly string[]
  readonly footer: string
}

export function pageHtml({
  title,
  verdict,
  about,
  reasons,
  figures,
  charts,
  beside = '',
  sections,
  footer,
}: Page): string {
  // In a script element only `<` can end what it holds; as an escape it is the same JSON.
  const data = JSON.stringify(charts.map(chartData)).replaceAll('<', '\\u003c')
  const why = reasons.map((reason) => `<li>${escapeHtml(reason)}</li>`).join('')
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>${escapeHtml(`${verdict} · ${title}`)}</title>
<style>${STYLE}</style>
</head>
<body><main>
<header><h1>${escapeHtml(title)}</h1><span class="verdict ${verdict}">${verdict}</span><p>${escapeHtml(about)}</p></header>
${why === '' ? '' : `<div class="why ${verdict}"><b>${verdict === 'INVALID' ? 'This run is no measurement of the service:' : 'Missed:'}</b><ul>${why}</ul></div>`}
<div class="figures">${figures.map(({ value, label }) => `<div class="figure"><b>${figure(value)}</b><span>${figure(label)}</span></div>`).join('')}</div>
<div class="grid2">${charts.map(chartCard).join('\n')}${beside}</div>
${sections.map((section) => `<div class="wide">${section}</div>`).join('\n')}
<footer>${escapeHtml(footer)}</footer>
</main>
<script type="application/json" id="charts">${data}</script>
<script>${SCRIPT}</script>
</body>
</html>
`
}

/** A card with a table. The first column is names. Cells that read PASS or FAIL are coloured. */
export function tableCard(title: string, head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cell = (text: string, i: number) =>
    `<td class="${i === 0 ? 'name' : text === 'PASS' || text === 'FAIL' ? text : ''}">${escapeHtml(text)}</td>`
  return (
    `<section class="card"><h2>${escapeHtml(title)}</h2><div class="scroll"><table><thead><tr>${head.map((text) => `<th>${escapeHtml(text)}</th>`).join('')}</tr></thead>` +
    `<tbody>${rows.map((cells) => `<tr>${cells.map(cell).join('')}</tr>`).join('')}</tbody></table></div></section>`
  )
}

export function factsCard(title: string, facts: readonly (readonly [string, string])[]): string {
  return `<section class="card"><h2>${escapeHtml(title)}</h2><dl>${facts.map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd>`).join('')}</dl></section>`
}

export const codeCard = (title: string, code: string): string =>
  `<section class="card"><h2>${escapeHtml(title)}</h2><pre>${escapeHtml(code)}</pre></section>`

export const sideBySide = (...cards: string[]): string => `<div class="grid2">${cards.join('\n')}</div>`

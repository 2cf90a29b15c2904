/** Numbers and small pieces of page for the dashboard. All text enters the page as text, never as markup. */

/** 0.0123 → 0.012, 12.3, 1 234, 12.3k */
export function count(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–'
  const size = Math.abs(value)
  if (size >= 1e9) return `${(value / 1e9).toFixed(1)}G`
  if (size >= 1e6) return `${(value / 1e6).toFixed(size >= 1e7 ? 0 : 1)}M`
  if (size >= 1e5) return `${(value / 1e3).toFixed(0)}k`
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)}k`
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString('en-US').replaceAll(',', '\u202f')
  return size < 0.0005 ? '0' : value.toFixed(size >= 10 ? 1 : size >= 0.1 ? 2 : 3)
}

export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return '–'
  if (ms >= 1000) return `${(ms / 1000).toFixed(ms >= 10_000 ? 1 : 2)} s`
  if (ms >= 100 || ms === 0) return `${Math.round(ms)} ms`
  return ms >= 1 ? `${ms.toFixed(1)} ms` : `${Math.round(ms * 1000)} µs`
}

export function bytes(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–'
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}

export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return '–'
  const value = share * 100
  return `${value === 0 || value >= 10 ? Math.round(value) : value.toFixed(value >= 1 ? 1 : 2)} %`
}

export function age(seconds) {
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`
}

const two = (n) => String(n).padStart(2, '0')

export function clock(seconds, withSeconds = true) {
  const date = new Date(seconds * 1000)
  return `${two(date.getHours())}:${two(date.getMinutes())}${withSeconds ? `:${two(date.getSeconds())}` : ''}`
}

/** An element: `el('p', { class: 'x' }, 'text', child)`. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(name, value)
  }
  node.append(...children.filter((child) => child !== null && child !== undefined))
  return node
}

/** A bar from 0 to 1, with a mark when one is given. */
export function meter(share, { tone, mark, wide } = {}) {
  const bar = el('span', { class: wide ? 'meter wide-meter' : 'meter', 'data-tone': tone, 'aria-hidden': 'true' })
  const fill = el('i')
  fill.style.width = `${Math.min(1, Math.max(0, share || 0)) * 100}%`
  bar.append(fill)
  if (mark !== undefined) {
    const line = el('u')
    line.style.left = `${Math.min(1, mark) * 100}%`
    bar.append(line)
  }
  return bar
}

/** `good`, `warn` or `bad` by two thresholds; undefined below the first. */
export function tone(value, warnFrom, badFrom) {
  if (value === null || value === undefined) return undefined
  return value > badFrom ? 'bad' : value > warnFrom ? 'warn' : undefined
}

/** Accept-Encoding (RFC 9110 §12.5.3): choosing a content coding, and one spelling for what means the same (cache keys). */

interface Weighted {
  readonly coding: string
  /** 0…1000 */
  readonly q: number
}

function parse(text: string): Weighted[] {
  const list: Weighted[] = []
  for (const part of text.split(',')) {
    const [name, ...parameters] = part.split(';')
    let coding = name!.trim().toLowerCase()
    if (coding === '') continue
    if (coding === 'x-gzip') coding = 'gzip'
    let q = 1000
    for (const parameter of parameters) {
      const m = /^\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*$/i.exec(parameter)
      if (m !== null) q = Math.round(Number(m[1]) * 1000)
      else if (/^\s*q\s*=/i.test(parameter)) q = 0 // not a weight: the safe reading is "not this one"
    }
    list.push({ coding, q })
  }
  return list
}

const MEMO_MAX = 1000

/**
 * Chooses the best of `offered` (in our order of preference) for a client, or `identity`. A coding that is accepted with a
 * lower weight than identity is not chosen. The few spellings that browsers use are remembered.
 */
export function compileEncodingPicker(offered: readonly string[]): (header: string | undefined) => string {
  const known = new Map<string, string>()
  return (header) => {
    if (header === undefined || header === '') return 'identity'
    let picked = known.get(header)
    if (picked !== undefined) return picked
    picked = pickEncoding(header, offered)
    if (known.size >= MEMO_MAX) known.clear()
    known.set(header, picked)
    return picked
  }
}

export function pickEncoding(header: string | undefined, offered: readonly string[]): string {
  if (header === undefined || header === '') return 'identity'
  const accepted = parse(header)
  const weight = (coding: string): number | undefined => accepted.find((one) => one.coding === coding)?.q
  const any = weight('*')
  let best = 'identity'
  let bestQ = weight('identity') ?? 0
  for (const coding of offered) {
    const q = weight(coding) ?? any ?? 0
    if (q > 0 && (best === 'identity' ? q >= bestQ : q > bestQ)) {
      best = coding
      bestQ = q
    }
  }
  return best
}

/** One text for all spellings of the same acceptance: order, case, white space and `;q=1` do not count. '' for none. */
export function normaliseAcceptEncoding(header: string): string {
  const parts = parse(header)
    .filter((one) => one.q > 0 || one.coding === 'identity' || one.coding === '*')
    .map((one) => (one.q === 1000 ? one.coding : `${one.coding};q=${one.q / 1000}`))
  return [...new Set(parts)].sort().join(',')
}

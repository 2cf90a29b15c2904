/** "Did you mean …?": the nearest of the known words, or none when all are far. */

/** Edits (insert, delete, replace, swap of neighbours) from one word to the other. */
export function editDistance(a: string, b: string): number {
  const width = b.length + 1
  let before = new Array<number>(width).fill(0)
  let previous = Array.from({ length: width }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j < width; j++) {
      const replaced = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      row[j] = Math.min(replaced, previous[j]! + 1, row[j - 1]! + 1)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        row[j] = Math.min(row[j]!, before[j - 2]! + 1)
    }
    before = previous
    previous = row
  }
  return previous[width - 1]!
}

/** Of more words the first ones are looked at. */
const MAX_KNOWN = 2000
const MAX_LISTED = 12

/** Case and `-`, `_` do not count: `max_ccu` is `maxCCU`. Undefined when nothing is near. */
export function suggest(word: string, known: readonly string[]): string | undefined {
  const plain = (text: string) => text.toLowerCase().replace(/[-_ ]/g, '')
  const wanted = plain(word).slice(0, 64)
  if (wanted === '') return undefined
  let best: string | undefined
  let bestDistance = Number.POSITIVE_INFINITY
  const limit = Math.max(1, Math.floor(wanted.length / 3))
  for (const candidate of known.slice(0, MAX_KNOWN)) {
    const target = plain(candidate)
    const longer = Math.abs(wanted.length - target.length) // no fewer edits than that
    let distance = longer > limit ? longer : editDistance(wanted, target)
    // A plural, or a word cut short, is nearer than its letters say.
    if (distance > 2 && wanted.length >= 4 && (target.startsWith(wanted) || wanted.startsWith(target))) distance = 2
    if (distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  return bestDistance <= limit ? best : undefined
}

/** ` Did you mean "x"?`, or ''. */
export function didYouMean(word: string, known: readonly string[]): string {
  const near = suggest(word, known)
  return near === undefined ? '' : ` Did you mean "${near}"?`
}

/** `a, b, c and 20 more` */
export function listed(words: readonly string[]): string {
  const more = words.length - MAX_LISTED
  return words.slice(0, MAX_LISTED).join(', ') + (more > 0 ? ` and ${more} more` : '')
}

/**
 * The parts of a page that a program writes: what stands between `<!-- report:NAME -->` and `<!-- /report:NAME -->`.
 * Everything else on the page is written by hand, and stays. Pure.
 */

/** A figure that was asked for, and whether it was reached. */
export interface Check {
  readonly text: string
  readonly met: boolean
}

export interface Table {
  /** A line above it; none when the heading of the page says enough. */
  readonly about?: string
  /** The first row is the heads, the first column names. */
  readonly rows: readonly (readonly string[])[]
}

/** What one section of the report measured. */
export interface Piece {
  /** The commands that the tables come from, as a user would type them. */
  readonly commands: readonly string[]
  readonly tables: readonly Table[]
  /** Sentences about the figures, which hold figures themselves. */
  readonly notes: readonly string[]
  readonly checks: readonly Check[]
}

const opening = (name: string) => `<!-- report:${name} -->\n`
const closing = (name: string) => `<!-- /report:${name} -->`

/** The names of the blocks of a page, in order. */
export const blocksOf = (page: string): string[] =>
  [...page.matchAll(/^<!-- report:(\S+) -->$/gm)].map(([, name]) => name!)

/** Throws when the page has no such block. */
export function replaceBlock(page: string, name: string, text: string): string {
  const from = page.indexOf(opening(name))
  const to = page.indexOf(closing(name))
  if (from === -1 || to < from) throw new Error(`the page has no block ${opening(name).trim()} … ${closing(name)}`)
  return `${page.slice(0, from + opening(name).length)}${text.trim()}\n${page.slice(to)}`
}

export function pieceMarkdown(name: string, { commands, tables, notes }: Piece): string {
  const parts = [`\`npm run report -- ${name}\``]
  if (commands.length > 0) parts.push(['```sh', ...commands, '```'].join('\n'))
  for (const { about, rows } of tables) {
    if (about !== undefined) parts.push(about)
    parts.push(tableMarkdown(rows))
  }
  return [...parts, ...notes].join('\n\n')
}

export function tableMarkdown([heads, ...rows]: Table['rows']): string {
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
  return [line(heads!), `|${heads!.map(() => '---|').join('')}`, ...rows.map(line)].join('\n')
}

/** The same table for a terminal. */
export function tableText(rows: Table['rows']): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows
    .map((row) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '))
    .join('\n')
}

/**
 * The share of arrivals that finds all `places` taken, when those who find none leave: Erlang's loss formula. `offered` is
 * arrivals a second times seconds inside. It holds for strangers' arrivals and any distribution of the time inside.
 */
export function erlangLoss(offered: number, places: number): number {
  let share = 1
  for (let n = 1; n <= places; n++) share = (offered * share) / (n + offered * share)
  return share
}

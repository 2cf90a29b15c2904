/** What is wrong with a config, told so that it can be put right: place, path, reason, the line itself. */

export interface Problem {
  readonly severity: 'error' | 'warning'
  readonly file: string
  /** From 1; 0 for what stands in no line, such as a file that is missing. */
  readonly line: number
  /** From 1. */
  readonly column: number
  /** `routes[0].upstream`; '' for the file as a whole. */
  readonly path: string
  readonly message: string
  /** The line of the file; undefined when there is none, or when it holds a secret. */
  readonly source?: string
  /** Set on the last entry of a list that would be too long: how many it stands for. */
  readonly more?: number
}

/** More at once help nobody. */
const MAX_TOLD = 100

/** The first of them, and an entry that says how many more there are. */
export function firstOf<P extends Problem>(problems: readonly P[]): (P | Problem)[] {
  const more = problems.length - MAX_TOLD
  if (more <= 1) return [...problems]
  const { file, severity } = problems[0]!
  const rest: Problem = { severity, file, line: 0, column: 0, path: '', message: `… and ${more} more`, more }
  return [...problems.slice(0, MAX_TOLD), rest]
}

export function countOf(problems: readonly Problem[]): number {
  return problems.reduce((sum, { more }) => sum + (more ?? 1), 0)
}

/** Two lines more than the message when the source is known: the line, and a caret under the place. */
export function formatProblem(problem: Problem): string {
  const { file, line, column, path, message, source, severity } = problem
  const label = severity === 'warning' ? 'warning: ' : ''
  const place = line === 0 ? file : `${file}:${line}:${column}`
  const text = `${place}  ${label}${path === '' ? '' : `${path}: `}${message}`
  if (source === undefined || source.trim() === '') return text
  const number = String(line)
  // Tabs are kept in the padding so that the caret stands under its column in any terminal.
  const shown = excerpt(source, column)
  const padding = shown.text.slice(0, shown.column - 1).replace(/[^\t]/g, ' ')
  return `${text}\n  ${number} | ${shown.text}\n  ${' '.repeat(number.length)} | ${padding}^`
}

/** The part of a long line around the place. */
function excerpt(source: string, column: number): { text: string; column: number } {
  if (source.length <= MAX_SOURCE) return { text: source, column }
  const start = Math.max(0, Math.min(column - MAX_SOURCE / 2, source.length - MAX_SOURCE))
  const text = source.slice(start, start + MAX_SOURCE)
  return {
    text: `${start > 0 ? '…' : ''}${text}${start + MAX_SOURCE < source.length ? '…' : ''}`,
    column: column - start + (start > 0 ? 1 : 0),
  }
}

const MAX_SOURCE = 160

/** The config cannot be used. `problems` holds the errors that were found, not only the first; `warnings` the rest. */
export class ConfigError extends Error {
  readonly problems: readonly Problem[]
  readonly warnings: readonly Problem[]

  constructor(problems: readonly Problem[], warnings: readonly Problem[] = []) {
    super(problems.map(formatProblem).join('\n'))
    this.name = 'ConfigError'
    this.problems = problems
    this.warnings = warnings
  }
}

export type Path = readonly (string | number)[]

/** `routes[0].match.path`, `headers["x y"]`. */
export function formatPath(path: Path): string {
  let text = ''
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`
    else if (/^[A-Za-z_$][\w$-]*$/.test(part)) text += text === '' ? part : `.${part}`
    else text += `[${JSON.stringify(part)}]`
  }
  return text
}

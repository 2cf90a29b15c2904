/**
 * `check -c FILE`: everything that is wrong with a config, without starting anything. With `--strict` also what is unlikely
 * to be meant, by the numbered rules of config/advisor.ts; then a warning or an advice is exit code 78, for CI.
 */

import { readFileSync } from 'node:fs'
import { advise } from '../config/advisor.ts'
import { type LoadedConfig, loadConfig, placeFindings } from '../config/load.ts'
import { ConfigError, countOf, firstOf, formatPath, formatProblem, type Problem } from '../config/problems.ts'
import { EXIT, type Invocation, UsageError } from './cli.ts'
import { requireFiles } from './files.ts'

export async function check({ values, positionals }: Invocation): Promise<number> {
  const path = (values['config'] as string | undefined) ?? positionals[0]
  if (path === undefined) throw new UsageError('which config? check -c FILE')
  const strict = values['strict'] === true
  try {
    const loaded = loadConfig(path)
    requireFiles(path, loaded)
    const { config, warnings } = loaded
    for (const warning of warnings) console.error(formatProblem(warning))
    const { told, allowed } = strict ? advice(path, loaded) : { told: [], allowed: 0 }
    for (const problem of firstOf(told)) console.error(formatProblem(problem))
    const refused = strict && warnings.length + told.length > 0
    const counts = [
      count(config.routes.length, 'route'),
      count(Object.keys(config.upstreams).length, 'upstream'),
      ...(warnings.length > 0 ? [count(countOf(warnings), 'warning')] : []),
      ...(told.length > 0 ? [count(told.length, 'finding')] : []),
      ...(allowed > 0 ? [`${allowed} allowed`] : []),
    ]
    const summary = `${path}: ${refused ? 'not accepted with --strict' : 'ok'} (${counts.join(', ')})`
    if (refused) console.error(summary)
    else console.log(summary)
    return refused ? EXIT.config : EXIT.ok
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    for (const problem of [...error.problems, ...error.warnings]) console.error(formatProblem(problem))
    console.error(`${path}: ${count(countOf(error.problems), 'error')}`)
    return EXIT.config
  }
}

const ALLOW = /#\s*check:\s*allow\s+(A\d\d(?:\s*,\s*A\d\d)*)/g

/** What the advisor says about a file that was loaded, at its places, less what the file itself allows. */
function advice(path: string, { config, warnings }: LoadedConfig): { told: Problem[]; allowed: number } {
  const text = readFileSync(path, 'utf8')
  const accepted = new Set([...text.matchAll(ALLOW)].flatMap(([, rules]) => rules!.split(/\s*,\s*/)))
  // The loader has said it already when two routes have the very same conditions.
  const warned = new Set(warnings.map((warning) => warning.path))
  const all = advise(config).filter(({ rule, path }) => rule !== 'A07' || !warned.has(formatPath(path)))
  const told = all.filter(({ rule }) => !accepted.has(rule))
  const findings = told.map((finding) => ({ ...finding, severity: 'warning' as const }))
  const placed = placeFindings(path, findings).map(({ finding, problem }) => ({
    ...problem,
    path: `${finding.rule} ${formatPath(finding.path)}`,
  }))
  return { told: placed, allowed: all.length - told.length }
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`
}

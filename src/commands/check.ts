/** `check -c FILE`: everything that is wrong with a config, without starting anything. */

import { loadConfig } from '../config/load.ts'
import { ConfigError, formatProblem } from '../config/problems.ts'
import { EXIT, type Invocation, UsageError } from './cli.ts'

export async function check({ values, positionals }: Invocation): Promise<number> {
  const path = (values['config'] as string | undefined) ?? positionals[0]
  if (path === undefined) throw new UsageError('which config? check -c FILE')
  try {
    const { config, warnings } = loadConfig(path)
    for (const warning of warnings) console.error(formatProblem(warning))
    const strict = values['strict'] === true && warnings.length > 0
    const counts = [
      count(config.routes.length, 'route'),
      count(Object.keys(config.upstreams).length, 'upstream'),
      ...(warnings.length > 0 ? [count(warnings.length, 'warning')] : []),
    ]
    const summary = `${path}: ${strict ? 'not accepted with --strict' : 'ok'} (${counts.join(', ')})`
    if (strict) console.error(summary)
    else console.log(summary)
    return strict ? EXIT.config : EXIT.ok
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    for (const problem of [...error.problems, ...error.warnings]) console.error(formatProblem(problem))
    console.error(`${path}: ${count(error.problems.length, 'error')}`)
    return EXIT.config
  }
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? '' : 's'}`
}

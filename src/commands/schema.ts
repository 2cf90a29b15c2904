/** `schema`: the JSON Schema of the config file; `--check FILE` fails when a stored copy is not it. */

import { readFileSync } from 'node:fs'
import { jsonSchema } from '../config/json-schema.ts'
import { CommandError, EXIT, type Invocation } from './cli.ts'

export async function schema({ values }: Invocation): Promise<number> {
  const text = `${JSON.stringify(jsonSchema(), null, 2)}\n`
  const file = values['check'] as string | undefined
  if (file === undefined) {
    process.stdout.write(text)
    return EXIT.ok
  }
  let stored: string
  try {
    stored = readFileSync(file, 'utf8')
  } catch (error) {
    throw new CommandError(`${file} cannot be read (${(error as NodeJS.ErrnoException).code ?? 'error'})`)
  }
  if (stored !== text) throw new CommandError(`${file} is not up to date: npm run schema`)
  return EXIT.ok
}

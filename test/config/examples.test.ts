/**
 * Configs by example: each x.yaml stands beside x.error.txt (all that is said about it) or x.json (what is made of it),
 * and x.warnings.txt when there is more to say. `npx vitest run test/config --update` writes the texts anew,
 * and a .json file that was removed is made again; read the diff.
 */

import { existsSync, globSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type LoadedConfig, loadConfig, parseConfig } from '../../src/config/load.ts'
import { ConfigError, formatProblem } from '../../src/config/problems.ts'

const ENV = {
  PORT: '8080',
  COUNT: '077',
  EMPTY: '',
  WORDS: 'three',
  DIGITS: '012345678901234567890123456789012345',
  YAML: '{ "a": [1] }',
}
const root = join(import.meta.dirname, '../..')

describe('config examples', () => {
  for (const path of globSync('*.yaml', { cwd: import.meta.dirname }).sort()) {
    it(path, async () => {
      const file = join(import.meta.dirname, path)
      const stem = file.replace(/\.yaml$/, '')
      const loaded = load(file)
      if (loaded instanceof ConfigError) {
        const lines = [...loaded.problems, ...loaded.warnings].map(formatProblem)
        await expect(`${lines.join('\n')}\n`).toMatchFileSnapshot(`${stem}.error.txt`)
        return
      }
      if (!existsSync(`${stem}.json`)) writeFileSync(`${stem}.json`, `${JSON.stringify(loaded.config, null, 2)}\n`)
      // A key that is new, with a default, is no change to what these examples show.
      expect(loaded.config).toMatchObject(JSON.parse(readFileSync(`${stem}.json`, 'utf8')) as object)
      if (loaded.warnings.length === 0) return
      await expect(`${loaded.warnings.map(formatProblem).join('\n')}\n`).toMatchFileSnapshot(`${stem}.warnings.txt`)
    })
  }
})

describe('configs of this repository', () => {
  for (const path of ['gateway.yaml', ...globSync('examples/**/*.yaml', { cwd: root })]) {
    it(`${path} has no problem and no warning`, () => {
      const { warnings } = loadConfig(join(root, path), {})
      expect(warnings.map(formatProblem)).toEqual([])
    })
  }
})

function load(file: string): LoadedConfig | ConfigError {
  try {
    // The name without its folder, so that the expected texts are the same everywhere.
    const text = readFileSync(file, 'utf8')
    const cwd = process.cwd()
    process.chdir(import.meta.dirname)
    try {
      return parseConfig(text, basename(file), ENV)
    } finally {
      process.chdir(cwd)
    }
  } catch (error) {
    if (error instanceof ConfigError) {
      const clean = <T extends { message: string }>(problem: T) => {
        return { ...problem, message: problem.message.replaceAll(`${import.meta.dirname}/`, '') }
      }
      return new ConfigError(error.problems.map(clean), error.warnings.map(clean))
    }
    throw error
  }
}

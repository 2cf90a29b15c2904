/** The package as `npm pack` makes it, built in a copy of the repository: the tests of others may be using dist. */

import { execFile } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const run = promisify(execFile)

const SOURCES = [
  'src',
  'scripts',
  'package.json',
  'tsconfig.json',
  'tsconfig.build.json',
  'gateway.schema.json',
  'gateway.yaml',
  'README.md',
  'CHANGELOG.md',
  'LICENSE',
]

export interface Packed {
  /** A folder that everything here lives in; remove it at the end. */
  readonly folder: string
  readonly tarball: string
  readonly files: readonly { readonly path: string; readonly size: number }[]
  readonly size: number
}

/** The environment of somebody who has this Node, and nothing of this repository. */
export function cleanEnv(more: Record<string, string> = {}): Record<string, string> {
  const env: Record<string, string> = {}
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && !/^(?:npm_|NODE_|VITEST|FORCE_COLOR|NO_COLOR)/i.test(name)) env[name] = value
  }
  // The registry and whom to trust for it, as configured for the machine.
  const kept = ['registry', 'cache', 'cafile', 'userconfig', 'globalconfig'].map((name) => `npm_config_${name}`)
  for (const name of [...kept, 'NPM_CONFIG_REGISTRY', 'NODE_EXTRA_CA_CERTS']) {
    const value = process.env[name]
    if (value !== undefined) env[name] = value
  }
  env['PATH'] = [dirname(process.execPath), process.env['PATH'] ?? ''].join(delimiter)
  return { ...env, ...more }
}

export async function npm(cwd: string, ...args: string[]): Promise<string> {
  const { stdout } = await run('npm', args, { cwd, env: cleanEnv(), timeout: 180_000, maxBuffer: 64 * 1024 * 1024 })
  return stdout
}

/** `npm pack`, with its build. */
export async function pack(): Promise<Packed> {
  const folder = mkdtempSync(join(tmpdir(), 'fluxor-package-'))
  const copy = join(folder, 'repository')
  mkdirSync(copy)
  for (const source of SOURCES) cpSync(join(root, source), join(copy, source), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  // The build first and by itself: its output would stand in the JSON of npm pack.
  await run(process.execPath, ['scripts/build.ts'], { cwd: copy, timeout: 180_000 })
  const [report] = JSON.parse(await npm(copy, 'pack', '--json', '--ignore-scripts', '--pack-destination', folder))
  return { folder, tarball: join(folder, report.filename), files: report.files, size: report.size }
}

/** An empty project with the package in it, as `npm install` leaves it; returns its folder. */
export async function install(packed: Packed): Promise<string> {
  const project = join(packed.folder, 'project')
  mkdirSync(project)
  writeFileSync(join(project, 'package.json'), '{ "name": "somebody", "private": true, "type": "module" }\n')
  const flags = ['--omit=dev', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline']
  await npm(project, 'install', ...flags, packed.tarball)
  return project
}

export function remove(packed: Packed | undefined): void {
  if (packed !== undefined) rmSync(packed.folder, { recursive: true, force: true })
}

export function readJson(file: string): Record<string, unknown> {
  return JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>
}

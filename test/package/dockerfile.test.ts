/**
 * The Dockerfile without an engine: its COPY and RUN lines are carried out in folders of a temporary root, .dockerignore
 * included, and the last stage's ENTRYPOINT, CMD and HEALTHCHECK are started from there. What only an engine can show (the
 * base image, the user, the read-only root) is read from the text.
 */

import { execFile, spawn } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { freePort } from '../support/free-port.ts'
import { cleanEnv, root } from './packed.ts'

vi.setConfig({ testTimeout: 60_000 })

const run = promisify(execFile)
const text = readFileSync(join(root, 'Dockerfile'), 'utf8')

interface Stage {
  readonly name: string
  readonly base: string
  readonly lines: { readonly instruction: string; readonly rest: string }[]
}

function parseStages(): Stage[] {
  const stages: Stage[] = []
  const joined = text.replace(/^\s*#.*\n/gm, '').replace(/\\\n\s*/g, '')
  for (const line of joined.split('\n').filter((line) => line.trim() !== '')) {
    const [, instruction, rest] = /^([A-Z]+)\s+(.*)$/.exec(line)!
    if (instruction === 'FROM') {
      const [, base, name] = /^(\S+)(?: AS (\S+))?$/.exec(rest!)!
      stages.push({ name: name ?? 'final', base: base!, lines: [] })
    } else stages.at(-1)!.lines.push({ instruction: instruction!, rest: rest! })
  }
  return stages
}

const stages = parseStages()
const final = stages.at(-1)!
const of = (instruction: string) =>
  final.lines.filter((line) => line.instruction === instruction).map(({ rest }) => rest)
const fakeRoot = mkdtempSync(join(tmpdir(), 'fluxor-image-'))

/** Absolute paths of a stage, in its own folder of the fake root. */
function inStage(stage: string, path: string): string {
  return join(fakeRoot, stage, path)
}

/** What .dockerignore lets through. */
function context(): string[] {
  const lines = readFileSync(join(root, '.dockerignore'), 'utf8')
    .split('\n')
    .filter((line) => line && !line.startsWith('#'))
  expect(lines[0]).toBe('*')
  return lines.slice(1).map((line) => line.replace(/^!/, ''))
}

async function build(stage: Stage): Promise<void> {
  let workdir = '/'
  for (const { instruction, rest } of stage.lines) {
    if (instruction === 'WORKDIR') mkdirSync(inStage(stage.name, (workdir = rest)), { recursive: true })
    if (instruction === 'COPY') copy(stage, workdir, rest)
    if (instruction !== 'RUN' || (stage === final && rest.startsWith('rm -rf /usr'))) continue
    const command = rest
      .replace(/--mount=\S+\s*/g, '')
      // `tar … /tmp/package.tgz`, `--pack-destination /pack`: places of the stage.
      .replace(/(^|\s)(\/[a-z][^\s]*)/g, (_all, space: string, path: string) => `${space}${inStage(stage.name, path)}`)
    for (const [path] of command.matchAll(new RegExp(`${fakeRoot}\\S*`, 'g'))) {
      mkdirSync(path.includes('.tgz') ? dirname(path) : path, { recursive: true })
    }
    await run('sh', ['-ec', command], {
      cwd: inStage(stage.name, workdir),
      env: cleanEnv({ npm_config_prefer_offline: 'true' }),
      timeout: 240_000,
      maxBuffer: 64 * 1024 * 1024,
    })
  }
}

function copy(stage: Stage, workdir: string, rest: string): void {
  const words = rest.split(/\s+/)
  const from = /^--from=(.+)$/.exec(words[0]!)?.[1]
  const sources = words.slice(from === undefined ? 0 : 1, -1)
  const last = words.at(-1)!
  const target = inStage(stage.name, last.startsWith('/') ? last : join(workdir, last))
  const several = last.endsWith('/') || last === '.'
  for (const source of sources) {
    if (from !== undefined) {
      const folder = inStage(from, dirname(source))
      const pattern = new RegExp(`^${basename(source).replaceAll('.', '\\.').replaceAll('*', '.*')}$`)
      const names = readdirSync(folder).filter((name) => pattern.test(name))
      expect(names, `COPY ${rest}`).toHaveLength(1)
      cpSync(join(folder, names[0]!), several ? join(target, names[0]!) : target, { recursive: true })
    } else if (source === '.') {
      for (const path of context()) cpSync(join(root, path), join(target, path), { recursive: true })
    } else {
      expect(context(), `${source} must be in the build context`).toContain(source)
      cpSync(join(root, source), several ? join(target, source) : target)
    }
  }
}

beforeAll(async () => {
  for (const stage of stages) await build(stage)
}, 400_000)

afterAll(() => rmSync(fakeRoot, { recursive: true, force: true }))

describe('the image', () => {
  it('is Node 24, slim, in all stages', () => {
    expect(stages.map(({ base }) => base)).toEqual(['node:24-slim', 'node:24-slim', 'node:24-slim'])
  })

  it('runs as a user without a name and without rights, and says what it is', () => {
    const [user] = of('USER')
    expect(user).toMatch(/^[1-9]\d{3,}:[1-9]\d{3,}$/)
    const labels = of('LABEL').join(' ')
    for (const label of ['title', 'description', 'licenses', 'version', 'revision', 'base.name']) {
      expect(labels).toContain(`org.opencontainers.image.${label}=`)
    }
  })

  it('holds no development dependency and no source', () => {
    const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { devDependencies: object }
    for (const name of Object.keys(manifest.devDependencies)) {
      expect(existsSync(inStage('final', `/app/node_modules/${name}`)), name).toBe(false)
    }
    expect(readdirSync(inStage('final', '/app')).sort()).toEqual([
      'CHANGELOG.md',
      'LICENSE',
      'README.md',
      'dist',
      'gateway.schema.json',
      'gateway.yaml',
      'node_modules',
      'package.json',
    ])
  })

  it('starts with its ENTRYPOINT and CMD, is healthy by its HEALTHCHECK, writes nothing, and ends with 0 at its STOPSIGNAL', async () => {
    const [port, adminPort] = [await freePort(), await freePort()]
    const config = inStage('final', '/etc/fluxor/gateway.yaml')
    const shipped = readFileSync(config, 'utf8')
    // The ports of a container are its own; here they are everybody's.
    writeFileSync(config, shipped.replace('127.0.0.1:9901', `127.0.0.1:${adminPort}`))
    const before = JSON.stringify(readdirSync(join(fakeRoot, 'final'), { recursive: true }))
    const words = [...JSON.parse(of('ENTRYPOINT')[0]!), ...JSON.parse(of('CMD')[0]!)] as string[]
    const place = (word: string) => (/^\/(?:app|etc)\//.test(word) ? inStage('final', word) : word)
    const env = cleanEnv({ NODE_ENV: 'production', LISTEN: `127.0.0.1:${port}` })
    chmodSync(inStage('final', '/etc/fluxor'), 0o555)
    const gateway = spawn(process.execPath, words.slice(1).map(place), {
      cwd: inStage('final', of('WORKDIR')[0]!),
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    try {
      let output = ''
      const exit = new Promise<number | null>((resolve) => gateway.on('exit', resolve))
      await new Promise<void>((resolve, reject) => {
        const read = (chunk: Buffer) => {
          output += chunk.toString('utf8')
          if (output.includes('"admin listening"')) resolve()
        }
        gateway.stdout.on('data', read)
        gateway.stderr.on('data', read)
        void exit.then(() => reject(new Error(output)))
      })
      expect(await (await fetch(`http://127.0.0.1:${port}/health`)).json()).toEqual({ status: 'healthy' })
      const health = /CMD (\[.*\])$/.exec(of('HEALTHCHECK')[0]!)![1]!
      const check = (JSON.parse(health) as string[]).slice(1).map(place)
      await run(process.execPath, check, { env, timeout: 10_000 })
      gateway.kill(of('STOPSIGNAL')[0] as NodeJS.Signals)
      expect(await exit).toBe(0)
      await expect(run(process.execPath, check, { env, timeout: 10_000 })).rejects.toMatchObject({ code: 1 })
      expect(JSON.stringify(readdirSync(join(fakeRoot, 'final'), { recursive: true }))).toBe(before)
    } finally {
      gateway.kill('SIGKILL')
      chmodSync(inStage('final', '/etc/fluxor'), 0o755)
    }
  })
})

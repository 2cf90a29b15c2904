import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type ConfigWatch, watchConfig } from '../../../src/config/watch.ts'

let folder = ''
let watching: ConfigWatch | undefined
let changes = 0
let wake: () => void = () => {}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fluxor-watch-'))
  changes = 0
})
afterEach(() => {
  watching?.close()
  rmSync(folder, { recursive: true, force: true })
})

function start(...files: string[]) {
  watching = watchConfig(files, () => {
    changes++
    wake()
  })
}

async function changed(count: number): Promise<void> {
  while (changes < count) await new Promise<void>((resolve) => (wake = resolve))
}

describe('watching a config', () => {
  it('tells of a file written in place', async () => {
    const file = join(folder, 'gateway.yaml')
    writeFileSync(file, 'a')
    start(file)
    writeFileSync(file, 'b')
    await changed(1)
  })

  it('tells of a file put in place of the old one, again and again', async () => {
    const file = join(folder, 'gateway.yaml')
    writeFileSync(file, '0')
    start(file)
    for (let i = 1; i <= 3; i++) {
      writeFileSync(`${file}.new`, String(i))
      renameSync(`${file}.new`, file)
      await changed(i)
    }
  })

  it('tells of a ConfigMap that Kubernetes has swapped', async () => {
    const publish = (version: string) => {
      mkdirSync(join(folder, version))
      writeFileSync(join(folder, version, 'gateway.yaml'), version)
      symlinkSync(version, join(folder, '..data_tmp'))
      renameSync(join(folder, '..data_tmp'), join(folder, '..data'))
    }
    publish('..1')
    symlinkSync('..data/gateway.yaml', join(folder, 'gateway.yaml'))
    start(join(folder, 'gateway.yaml'))
    publish('..2')
    await changed(1)
    publish('..3')
    await changed(2)
  })

  it('tells of a file that comes back', async () => {
    const file = join(folder, 'gateway.yaml')
    writeFileSync(file, 'a')
    start(file)
    rmSync(file)
    await changed(1)
    writeFileSync(file, 'a')
    await changed(2)
  })

  it('says nothing when the content is the same', async () => {
    const file = join(folder, 'gateway.yaml')
    const other = join(folder, 'other.yaml')
    writeFileSync(file, 'a')
    writeFileSync(other, 'a')
    start(file, other)
    utimesSync(file, 1, 1)
    writeFileSync(file, 'a')
    writeFileSync(other, 'b')
    await changed(1)
    expect(changes).toBe(1)
  })

  it('follows the files of the config that was loaded last', async () => {
    const file = join(folder, 'gateway.yaml')
    mkdirSync(join(folder, 'secrets'))
    const secret = join(folder, 'secrets', 'jwt')
    writeFileSync(file, 'a')
    writeFileSync(secret, 'a')
    start(file)
    watching!.update([file, secret])
    writeFileSync(secret, 'b')
    await changed(1)
  })
})

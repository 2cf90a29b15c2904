import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createTurn, LineWriter } from '../../../src/observability/line-writer.ts'

let dir: string
beforeEach(() => {
  dir = fs.mkdtempSync(join(tmpdir(), 'lines-'))
})
afterEach(() => fs.rmSync(dir, { recursive: true }))

describe('a log file', () => {
  it('holds every line in order, large batches and small ones', async () => {
    const file = join(dir, 'made/when/missing/app.log')
    const writer = new LineWriter({ file })
    const line = (i: number) => `${i} ${'é'.repeat(i % 300)}\n`
    for (let i = 0; i < 3000; i++) {
      writer.write(line(i))
      if (i % 1000 === 0) await writer.flush()
    }
    await writer.close()
    expect(fs.readFileSync(file, 'utf8')).toBe(Array.from({ length: 3000 }, (_, i) => line(i)).join(''))
    expect([writer.written, writer.dropped]).toEqual([3000, 0])
    writer.write('late\n')
    expect(writer.dropped).toBe(1)
  })

  it('is written within a quarter of a second, without a flush', async () => {
    const file = join(dir, 'a.log')
    const started = performance.now()
    const written = new Promise<number>((resolve) => {
      new LineWriter({ file, onWritten: resolve }).write('one\n')
    })
    expect(await written).toBe(1)
    expect(performance.now() - started).toBeLessThan(1000)
    expect(fs.readFileSync(file, 'utf8')).toBe('one\n')
  })

  it('goes on in a new file after it was renamed and opened anew', async () => {
    const file = join(dir, 'a.log')
    const writer = new LineWriter({ file })
    writer.write('before\n')
    fs.renameSync(file, `${file}.1`)
    writer.write('still before\n')
    await writer.reopen()
    writer.write('after\n')
    await writer.close()
    expect(fs.readFileSync(`${file}.1`, 'utf8')).toBe('before\nstill before\n')
    expect(fs.readFileSync(file, 'utf8')).toBe('after\n')
  })

  it('that cannot be opened anew stays as it was', async () => {
    const file = join(dir, 'sub/a.log')
    const writer = new LineWriter({ file })
    fs.renameSync(join(dir, 'sub'), join(dir, 'moved'))
    fs.writeFileSync(join(dir, 'sub'), 'a file in the way')
    await expect(writer.reopen()).rejects.toThrow()
    writer.write('kept\n')
    await writer.close()
    expect(fs.readFileSync(join(dir, 'moved/a.log'), 'utf8')).toBe('kept\n')
  })

  it('takes lines of several writers without cutting one, in turns', async () => {
    const file = join(dir, 'a.log')
    const turn = createTurn()
    const writers = [1, 2, 3].map((id) => new LineWriter({ file, turn, id }))
    for (let i = 0; i < 2000; i++)
      for (const [w, writer] of writers.entries()) writer.write(`${w} ${'x'.repeat(100)}\n`)
    await Promise.all(writers.map((writer) => writer.close()))
    const lines = fs.readFileSync(file, 'utf8').trimEnd().split('\n')
    expect(lines.length).toBe(6000)
    expect(lines.every((line) => /^[012] x{100}$/.test(line))).toBe(true)
  })
})

describe('a log that cannot be written', () => {
  it.skipIf(!fs.existsSync('/dev/full'))(
    'on a full disk costs lines, which are counted, and nothing else',
    async () => {
      let lost = 0
      const writer = new LineWriter({ file: '/dev/full', onDropped: (lines) => (lost += lines) })
      writer.write('one\n')
      writer.write('two\n')
      await writer.flush()
      expect([writer.dropped, lost, writer.written]).toEqual([2, 2, 0])
      await writer.close()
    },
  )

  it('because nobody reads the pipe holds at most a mebibyte, drops the rest and never blocks', async () => {
    const fifo = join(dir, 'fifo')
    spawnSync('mkfifo', [fifo])
    const reader = fs.openSync(fifo, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
    const writer = new LineWriter({ file: fifo })
    const line = `${'x'.repeat(1023)}\n`
    const started = performance.now()
    for (let i = 0; i < 5000; i++) writer.write(line)
    expect(performance.now() - started).toBeLessThan(1000)
    expect(writer.dropped).toBeGreaterThan(3900)
    expect(writer.dropped).toBeLessThan(4100)
    const drained = new Promise<number>((resolve) => {
      let bytes = 0
      const buffer = Buffer.alloc(1 << 20)
      const timer = setInterval(() => {
        try {
          bytes += fs.readSync(reader, buffer)
        } catch {
          // EAGAIN: nothing yet
        }
        if (writer.written + writer.dropped === 5000) {
          clearInterval(timer)
          resolve(bytes)
        }
      }, 1)
    })
    expect(await drained).toBe(writer.written * 1024)
    await writer.close()
    fs.closeSync(reader)
  })
})

import { Worker } from 'node:worker_threads'
import { describe, expect, it } from 'vitest'
import { NameTable } from '../../../src/shared/name-table.ts'

const tableOf = (capacity: number) => new SharedArrayBuffer(NameTable.byteLength(capacity))

describe('a table of names shared by threads', () => {
  it('gives one name one number, whoever asks', () => {
    const buffer = tableOf(8)
    const [one, other] = [new NameTable(buffer), new NameTable(buffer)]
    expect(one.id('orders')).toBe(0)
    expect(other.id('users')).toBe(1)
    expect(other.id('orders')).toBe(0)
    expect(one.id('users')).toBe(1)
    expect([one.name(0), one.name(1), one.name(2)]).toEqual(['orders', 'users', undefined])
    expect(one.size).toBe(2)
  })

  it('says -1 when it is full, and still finds what it has', () => {
    const table = new NameTable(tableOf(2))
    table.id('a')
    table.id('b')
    expect(table.id('c')).toBe(-1)
    expect(table.id('b')).toBe(1)
  })

  it('keeps long and foreign names apart', () => {
    const table = new NameTable(tableOf(8))
    const long = 'ü'.repeat(300)
    expect(table.id(`${long}a`)).toBe(0)
    expect(table.id(`${long}b`)).toBe(1)
    expect(table.id(`${long}a`)).toBe(0)
    expect(table.id('__proto__')).toBe(2)
    expect(table.name(2)).toBe('__proto__')
    expect(table.name(0)).toMatch(/^ü+~[0-9a-f]{8}$/)
  })

  it('stays unique when threads register the same names at the same time', async () => {
    const buffer = tableOf(128)
    const source = `
      import { workerData, parentPort } from 'node:worker_threads'
      import { NameTable } from ${JSON.stringify(new URL('../../../src/shared/name-table.ts', import.meta.url).href)}
      const table = new NameTable(workerData.buffer)
      const ids = {}
      for (let i = 0; i < 100; i++) ids['name' + ((i * workerData.step) % 100)] = table.id('name' + ((i * workerData.step) % 100))
      parentPort.postMessage(ids)`
    const results = await Promise.all(
      [1, 3, 7].map(
        (step) =>
          new Promise<Record<string, number>>((resolve, reject) => {
            const url = new URL(`data:text/javascript,${encodeURIComponent(source)}`)
            const worker = new Worker(url, { workerData: { buffer, step } })
            worker.once('message', resolve)
            worker.once('error', reject)
          }),
      ),
    )
    expect(new NameTable(buffer).size).toBe(100)
    for (const ids of results) expect(ids).toEqual(results[0])
    expect(new Set(Object.values(results[0]!)).size).toBe(100)
  })
})

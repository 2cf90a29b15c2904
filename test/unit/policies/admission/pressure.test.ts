/** What a process that is short of time, memory or descriptors makes of its cap. */

import { describe, expect, it } from 'vitest'
import {
  descriptorLimit,
  memoryLimit,
  Pressure,
  type PressureReadings,
} from '../../../../src/policies/admission/pressure.ts'

const GB = 2 ** 30
const WELL: PressureReadings = {
  loopDelayMs: 1,
  loopUtilization: 0.9,
  memoryBytes: 0.2 * GB,
  memoryLimitBytes: GB,
  heapBytes: 10,
  heapLimitBytes: 100,
  descriptors: 50,
  descriptorLimit: 1000,
}
const create = (over = {}) =>
  new Pressure({ eventLoopDelayMs: 100, memoryPercent: 90, descriptorsPercent: 90, shrinkToPercent: 20, ...over })

describe('pressure', () => {
  it('is none in quiet times: the cap is whole', () => {
    expect(create().update(WELL)).toEqual({ pressure: 0, cause: '', share: 1 })
  })

  it.each([
    [{ loopDelayMs: 75 }, 0.5, 'eventLoop'],
    [{ loopDelayMs: 500 }, 1, 'eventLoop'],
    [{ loopDelayMs: 500, loopUtilization: 0.2 }, 0, ''],
    [{ memoryBytes: 0.9 * GB }, 1, 'memory'],
    [{ heapBytes: 90 }, 1, 'heap'],
    [{ descriptors: 2000 }, 1, 'descriptors'],
    [{ loopDelayMs: 60, descriptors: 2000 }, 1, 'descriptors'],
  ] as const)('%j is %d by %s', (readings, pressure, cause) => {
    const state = create().update({ ...WELL, ...readings })
    expect(state.pressure).toBeCloseTo(pressure)
    expect(state.cause).toBe(cause)
    expect(state.share).toBeCloseTo(1 - 0.8 * pressure)
  })

  it('rises at once and goes slowly, so that it does not swing with what it sheds', () => {
    const pressure = create()
    expect(pressure.update({ ...WELL, loopDelayMs: 100 }).share).toBeCloseTo(0.2)
    const shares = Array.from({ length: 15 }, () => pressure.update(WELL).share)
    expect(shares[0]).toBeCloseTo(0.44)
    for (let i = 1; i < shares.length; i++) expect(shares[i]).toBeGreaterThanOrEqual(shares[i - 1]!)
    expect(shares.at(-1)).toBe(1)
  })

  it('does not look at what is set to 0', () => {
    const pressure = create({ eventLoopDelayMs: 0, memoryPercent: 0, descriptorsPercent: 0 })
    const worst = { loopDelayMs: 1e6, loopUtilization: 1, memoryBytes: GB, heapBytes: 100, descriptors: 1e9 }
    expect(pressure.update({ ...WELL, ...worst }).pressure).toBe(0)
  })
})

describe('the memory limit', () => {
  const files = (map: Record<string, string>) => (path: string) => map[path]

  it('is the smallest of the control groups above (v2)', () => {
    const read = files({
      '/proc/self/cgroup': '0::/kubepods/pod1/main\n',
      '/sys/fs/cgroup/kubepods/pod1/main/memory.max': 'max\n',
      '/sys/fs/cgroup/kubepods/pod1/memory.max': '268435456\n',
      '/sys/fs/cgroup/kubepods/memory.max': '99999999999\n',
    })
    expect(memoryLimit(read, 8 * GB)).toBe(268_435_456)
  })

  it("is the container's own where its path is hidden", () => {
    expect(memoryLimit(files({ '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/memory.max': '1000\n' }), GB)).toBe(1000)
    const v1 = files({
      '/proc/self/cgroup': '5:cpu,memory:/docker/x\n1:name=systemd:/\n',
      '/sys/fs/cgroup/memory/memory.limit_in_bytes': '2000\n',
    })
    expect(memoryLimit(v1, GB)).toBe(2000)
  })

  it("is the machine's without any", () => {
    expect(memoryLimit(files({}), GB)).toBe(GB)
    const unlimited = {
      '/proc/self/cgroup': '9:memory:/\n',
      '/sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
    }
    expect(memoryLimit(files(unlimited), GB)).toBe(GB)
  })
})

it('the descriptor limit is the soft one', () => {
  const limits =
    'Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 4096                 files\n'
  expect(descriptorLimit(() => limits)).toBe(1024)
  expect(descriptorLimit(() => undefined)).toBeUndefined()
})

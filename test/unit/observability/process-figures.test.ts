import { describe, expect, it } from 'vitest'
import { processValues, ThreadProbe } from '../../../src/observability/process-figures.ts'
import { createMetricsMemory, ThreadMetrics } from '../../../src/shared/metrics.ts'
import { MetricsReader } from '../../../src/shared/metrics-reader.ts'

describe('a thread that was busy', () => {
  it('shows it in its CPU time and the use of its event loop', () => {
    const memory = createMetricsMemory({ threads: 1 })
    const reader = new MetricsReader(memory)
    const probe = new ThreadProbe(new ThreadMetrics(memory, 0), 0)
    const startedMs = performance.now()
    while (performance.now() - startedMs < 30);
    probe.sample(30)
    probe.close()
    expect(reader.scalar('cpuUtilization')).toBeGreaterThan(0.2)
    expect(reader.scalar('loopUtilization')).toBeGreaterThan(0.2)
    expect(reader.scalar('loopDelayMs')).toBeGreaterThanOrEqual(0)
  })
})

describe('the process', () => {
  it('tells its CPU time, memory and descriptors', () => {
    const values = new Map([...processValues()].map(({ name, value }) => [name, value]))
    expect(values.get('process_resident_memory_bytes')).toBeGreaterThan(1e7)
    expect(values.get('process_cpu_seconds_total')).toBeGreaterThan(0)
    if (process.platform === 'linux') {
      expect(values.get('process_open_fds')).toBeGreaterThan(2)
      expect(values.get('process_max_fds')).toBeGreaterThan(100)
    }
  })
})

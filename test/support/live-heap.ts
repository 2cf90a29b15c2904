/** What is alive in a gateway's thread after a full collection, and what the process has open: for tests of growth. */

import { readdirSync } from 'node:fs'
import type { TestGateway } from './gateway.ts'

interface HeapSnapshot {
  snapshot: { meta: { node_fields: string[] } }
  nodes: number[]
}

/** Bytes. Needs `admin.profiling`; the thread stands still meanwhile. @param thread 0 and up, or `main` */
export async function liveHeapBytes(gateway: TestGateway, thread: number | 'main'): Promise<number> {
  const answer = await gateway.admin(`/debug/pprof/heap?thread=${thread}`, { headers: { Connection: 'close' } })
  if (answer.status !== 200) throw new Error(await answer.text())
  const { snapshot, nodes } = (await answer.json()) as HeapSnapshot
  const { node_fields: fields } = snapshot.meta
  const at = fields.indexOf('self_size')
  let sum = 0
  for (let i = at; i < nodes.length; i += fields.length) sum += nodes[i]!
  return sum
}

export function openDescriptors(gateway: TestGateway): number {
  return readdirSync(`/proc/${gateway.pid}/fd`).length
}

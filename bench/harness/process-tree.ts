/** What a process and its descendants have used, read from /proc. Linux only, as are the pinned benches. */

import { readdirSync, readFileSync } from 'node:fs'

/** Clock ticks a second in /proc/PID/stat: USER_HZ, 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100

export interface Usage {
  userMs: number
  systemMs: number
  rssBytes: number
}

/** CPU time since their start, over all threads, and resident memory now, of `pid` and all its descendants. */
export function usageOfTree(pid: number): Usage {
  const sum: Usage = { userMs: 0, systemMs: 0, rssBytes: 0 }
  for (const member of treeOf(pid)) {
    try {
      // The second field, the name, may hold spaces and parentheses: count from the last one.
      const stat = readFileSync(`/proc/${member}/stat`, 'latin1')
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      sum.userMs += (Number(fields[11]) * 1000) / TICKS_PER_SECOND
      sum.systemMs += (Number(fields[12]) * 1000) / TICKS_PER_SECOND
      const status = readFileSync(`/proc/${member}/status`, 'latin1')
      sum.rssBytes += Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024
    } catch {
      // it ended between the listing and the reading
    }
  }
  return sum
}

function treeOf(root: number): number[] {
  const children = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid)) continue
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
      const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
      children.set(parent, [...(children.get(parent) ?? []), pid])
    } catch {
      // ended meanwhile
    }
  }
  const tree = [root]
  for (let i = 0; i < tree.length; i++) tree.push(...(children.get(tree[i]!) ?? []))
  return tree
}

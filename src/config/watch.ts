/**
 * Tells when the config's files have changed, for `--watch`. Folders are watched, not files: editors and Kubernetes
 * put a new file (or a new symbolic link, `..data`) in place of the old one, and a watch on a file would follow the old
 * one. What counts in the end is the content, so a touched file is no change and a missed event is found by a look
 * every few seconds (network file systems tell of nothing).
 */

import { createHash } from 'node:crypto'
import { type FSWatcher, readFileSync, realpathSync, watch } from 'node:fs'
import { dirname } from 'node:path'

/** Events come in bursts, and the first one often while a file is half written. */
const SETTLE_MS = 100
const LOOK_EVERY_MS = 5000

export interface ConfigWatch {
  /** After a reload: the files may be others now. */
  update(files: readonly string[]): void
  close(): void
}

/** @param onChange called once for each change of content, never while an earlier event still settles */
export function watchConfig(files: readonly string[], onChange: () => void): ConfigWatch {
  let seen = contentsOf(files)
  let watchers: FSWatcher[] = []
  let settling: NodeJS.Timeout | undefined

  const look = () => {
    settling = undefined
    const now = contentsOf(seen.keys())
    if ([...now].every(([file, hash]) => seen.get(file) === hash)) return
    seen = now
    // A link may lead elsewhere now.
    watchFolders()
    onChange()
  }
  const settle = () => {
    clearTimeout(settling)
    settling = setTimeout(look, SETTLE_MS)
  }
  const watchFolders = () => {
    for (const watcher of watchers) watcher.close()
    watchers = []
    for (const folder of foldersOf(seen.keys())) {
      try {
        const watcher = watch(folder, { persistent: false }, settle)
        // Without events (the folder is gone, no inotify watches left) the look every few seconds remains.
        watcher.on('error', () => watcher.close())
        watchers.push(watcher)
      } catch {
        // the same: the regular look finds changes
      }
    }
  }

  watchFolders()
  const timer = setInterval(look, LOOK_EVERY_MS)
  timer.unref()
  return {
    update(next) {
      // What was known of a file stays: it may have changed again since it was loaded.
      const fresh = contentsOf(next)
      for (const file of fresh.keys()) fresh.set(file, seen.get(file) ?? fresh.get(file)!)
      seen = fresh
      watchFolders()
      settle()
    },
    close() {
      clearInterval(timer)
      clearTimeout(settling)
      for (const watcher of watchers) watcher.close()
      watchers = []
    },
  }
}

function foldersOf(files: Iterable<string>): Set<string> {
  const folders = new Set<string>()
  for (const file of files) {
    folders.add(dirname(file))
    try {
      folders.add(dirname(realpathSync(file)))
    } catch {
      // not there at the moment
    }
  }
  return folders
}

/** A hash of each file's content, or why there is none. */
function contentsOf(files: Iterable<string>): Map<string, string> {
  const contents = new Map<string, string>()
  for (const file of files) {
    try {
      contents.set(file, createHash('sha256').update(readFileSync(file)).digest('hex'))
    } catch (error) {
      contents.set(file, (error as NodeJS.ErrnoException).code ?? 'error')
    }
  }
  return contents
}

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
  let watched = [...files]
  let seen = fingerprint(watched)
  let watchers: FSWatcher[] = []
  let settling: NodeJS.Timeout | undefined

  const look = () => {
    settling = undefined
    const now = fingerprint(watched)
    if (now === seen) return
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
    for (const folder of foldersOf(watched)) {
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
      watched = [...next]
      seen = fingerprint(watched)
      watchFolders()
    },
    close() {
      clearInterval(timer)
      clearTimeout(settling)
      for (const watcher of watchers) watcher.close()
      watchers = []
    },
  }
}

function foldersOf(files: readonly string[]): Set<string> {
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

function fingerprint(files: readonly string[]): string {
  const hash = createHash('sha256')
  for (const file of files) {
    hash.update(file).update('\0')
    try {
      hash.update(readFileSync(file))
    } catch (error) {
      hash.update((error as NodeJS.ErrnoException).code ?? 'error')
    }
    hash.update('\0')
  }
  return hash.digest('hex')
}

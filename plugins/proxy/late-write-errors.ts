/**
 * An agent may answer an upload and close without having read all of it: the next write fails then, while the answer waits to be read. So a
 * write's failure is told only when reading has had its time to find that answer, and the end behind it.
 */
import type { Socket } from 'node:net'

/** How long what came before the agent closed may take to be read. */
const lastReadMs = 1_000

export function readBeforeFailing (socket: Socket): void {
  const { _write: write, _writev: writev } = socket
  const late = (callback: (error?: Error | null) => void) => (error?: Error | null): void => {
    const { code } = (error ?? {}) as NodeJS.ErrnoException
    if (code !== 'EPIPE' && code !== 'ECONNRESET') return callback(error)
    const timer = setTimeout(callback, lastReadMs, error)
    socket.once('close', () => clearTimeout(timer))
  }
  socket._write = (chunk, encoding, callback) => write.call(socket, chunk, encoding, late(callback))
  socket._writev = (chunks, callback) => writev!.call(socket, chunks, late(callback))
}

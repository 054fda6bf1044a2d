/**
 * How a connection ends behind its last answer (RFC 9112 §9.6): to close it with bytes unread would have the kernel reset it, and throw away
 * what the client has not read yet. So only our side is ended, and what still comes is read and dropped for a moment.
 */
import type { Socket } from 'node:net'

/** How long a client may take to close. */
const lingerMs = 1_000

/** Ends our side of the connection, and the whole when the client ends its own or takes too long. */
export function endLingering (socket: Socket): void {
  if (socket.writable) socket.end()
  socket.resume()
  const timer = setTimeout(() => socket.destroy(), lingerMs)
  socket.once('close', () => clearTimeout(timer))
}

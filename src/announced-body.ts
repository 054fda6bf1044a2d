/** Whether a request has a body, by its head (RFC 9112 §6.3). */
import type { IncomingHttpHeaders } from 'node:http'

export function announcesBody (headers: IncomingHttpHeaders): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

/**
 * Browsers can't set headers on a WebSocket, so they offer the gateway's token as a subprotocol: `fleet.bearer.TOKEN`. It opened the
 * gateway and is not the agent's to see.
 */

const prefix = 'fleet.bearer.'

/** A `Sec-WebSocket-Protocol` value without the token among the subprotocols; empty when no other is left. */
export function withoutTokenProtocol (value: string): string {
  if (!value.includes(prefix)) return value
  return value.split(',').map(protocol => protocol.trim()).filter(protocol => !protocol.startsWith(prefix)).join(', ')
}

/**
 * Browsers can't set headers on a WebSocket, so they offer the gateway's token as a subprotocol: `fleet.bearer.TOKEN`. It opened the
 * gateway and is not the agent's to see.
 */

const prefix = 'fleet.bearer.'

/** The flat list of names and values without the token among the subprotocols; a list that is empty then is left out. */
export function withoutTokenProtocol (fields: readonly string[]): string[] {
  const kept: string[] = []
  for (let index = 0; index < fields.length; index += 2) {
    const name = fields[index]!
    let value = fields[index + 1]!
    if (name.toLowerCase() === 'sec-websocket-protocol' && value.includes(prefix)) {
      value = value.split(',').map(protocol => protocol.trim()).filter(protocol => !protocol.startsWith(prefix)).join(', ')
      if (value === '') continue
    }
    kept.push(name, value)
  }
  return kept
}

/**
 * Browsers can't set headers on a WebSocket, so they offer the gateway's token as a subprotocol: `fleet.bearer.TOKEN`. It opened the
 * gateway and is not the agent's to see. But a browser that offered subprotocols gives up when none is chosen (WHATWG WebSockets §2.1), and
 * an agent can't choose what it does not see: then the gateway may have to. What it chooses is best no secret, which is what the marker
 * `fleet.bearer` is for.
 */

const marker = 'fleet.bearer'
const prefix = 'fleet.bearer.'

/** A `Sec-WebSocket-Protocol` value without what is meant for the gateway; empty when nothing else is left. */
export function withoutTokenProtocol (value: string): string {
  if (!value.includes(marker)) return value
  return protocolsOf(value).filter(protocol => !isOurs(protocol)).join(', ')
}

/**
 * The subprotocol that the gateway chooses where the agent chose none: the marker if it was offered; else the token, if that was the only
 * offer, so that it goes back to nobody but who sent it just now. With others in the offer the choice is the agent's alone: undefined.
 * @param offered the client's `Sec-WebSocket-Protocol`
 */
export function gatewaysChoice (offered: string | undefined): string | undefined {
  if (offered === undefined || !offered.includes(marker)) return undefined
  const protocols = protocolsOf(offered)
  if (protocols.includes(marker)) return marker
  return protocols.every(isOurs) ? protocols[0] : undefined
}

function isOurs (protocol: string): boolean {
  return protocol === marker || protocol.startsWith(prefix)
}

function protocolsOf (value: string): string[] {
  return value.split(',').map(protocol => protocol.trim()).filter(protocol => protocol !== '')
}

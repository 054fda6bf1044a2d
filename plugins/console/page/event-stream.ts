/**
 * Server-sent events over fetch: EventSource can't send a token.
 */

export interface Message { event: string, data: string }

/** The messages of a body, as they arrive. */
export async function * messagesOf (body: ReadableStream<Uint8Array>): AsyncGenerator<Message> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader()
  let rest = ''
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    rest += value
    const parts = rest.split('\n\n')
    rest = parts.pop()!
    for (const part of parts) yield messageOf(part)
  }
}

function messageOf (text: string): Message {
  const message = { event: 'message', data: '' }
  for (const line of text.split('\n')) {
    if (line.startsWith('event: ')) message.event = line.slice(7)
    else if (line.startsWith('data: ')) message.data += line.slice(6)
  }
  return message
}

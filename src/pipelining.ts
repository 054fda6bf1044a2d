/**
 * HTTP/1.1 clients may send a request before the last one was answered (RFC 9112 §9.3.2). Node keeps the order of ServerResponses by itself;
 * here is what lets those that are written past them, or never get their turn, keep it too.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/** The answer that has its turn on the connection, as Node keeps it; it closes the connection behind the `_last` one. */
interface HttpSocket extends Socket {
  _httpMessage?: (ServerResponse & { _last?: boolean }) | null
}

/** The answer to a wholly received request that is still due on the connection. */
function answerDue (socket: HttpSocket): ServerResponse | undefined {
  const answer = socket._httpMessage
  return answer && answer.req.complete ? answer : undefined
}

/**
 * Calls back when the answers to all earlier requests on the connection have left: at once when none is due, never when the connection
 * ends before.
 */
export function afterAnswers (socket: Socket, callback: () => void): void {
  const due = answerDue(socket)
  if (due === undefined) return socket.writable ? callback() : undefined
  // After an upgrade Node has taken its own listeners off the socket.
  const relayDrain = () => { if (due.writableNeedDrain) due.emit('drain') }
  const ignore = () => {}
  socket.on('drain', relayDrain).on('error', ignore)
  due.once('finish', () => { // Node's own listener came first: the next answer has its turn
    socket.off('drain', relayDrain)
    if (!socket.destroyed && socket.writable) {
      socket.setTimeout(0)
      afterAnswers(socket, callback)
    }
    socket.off('error', ignore)
  })
}

const queues = new WeakMap<Socket, Set<ServerResponse>>()

/** Node tells only the answer that has its turn of a connection that is over: this tells `response`, which waits for its turn. */
export function closeWithConnection ({ socket }: IncomingMessage, response: ServerResponse): void {
  let queue = queues.get(socket)
  if (queue === undefined) {
    const created = queue = new Set<ServerResponse>()
    queues.set(socket, created)
    socket.once('close', () => {
      for (const waiting of created) waiting.emit('close')
    })
  }
  const waiting = queue
  waiting.add(response)
  response.once('socket', () => waiting.delete(response)).once('close', () => waiting.delete(response))
}

/** Whether requests came on the connection behind the one of `response`, whose answers are due after it: to close the connection then would lose them. */
export function hasFollowers (socket: Socket, response: ServerResponse): boolean {
  const queue = queues.get(socket)
  if (queue === undefined || queue.size === 0) return false
  if (!queue.has(response)) return true
  return [...queue].at(-1) !== response
}

/**
 * Whether an earlier answer on the connection says that it closes: the request is not to be processed then (RFC 9112 §9.6), least of all when
 * what was refused before it had two readings, and this is a piece of one.
 */
export function isBehindLast ({ socket }: IncomingMessage, response: ServerResponse): boolean {
  if (!socket.writable) return true
  if (response.socket !== null) return false
  const { _httpMessage: first } = socket as HttpSocket
  return [first, ...queues.get(socket) ?? []].some(earlier => earlier !== response && earlier?.headersSent === true && (earlier as typeof first)?._last === true)
}

const safeMethods: ReadonlySet<string | undefined> = new Set(['GET', 'HEAD', 'OPTIONS'])

/**
 * Calls back when the request may be processed: at once when it and all those before it on the connection only read, else when its answer has
 * its turn, since what one changes the next may rely on (RFC 9112 §9.3.2). Never when the connection ends before.
 */
export function inSafeOrder (request: IncomingMessage, response: ServerResponse, callback: () => void): void {
  if (response.socket !== null) return callback()
  const socket: HttpSocket = request.socket
  const changesBefore = changing.get(socket) ?? 0
  const isSafe = safeMethods.has(request.method)
  if (isSafe && changesBefore === 0 && safeMethods.has(socket._httpMessage?.req.method)) return callback()
  if (!isSafe) changing.set(socket, changesBefore + 1)
  response.once('socket', () => {
    if (!isSafe) changing.set(socket, changing.get(socket)! - 1)
    queueMicrotask(callback)
  })
}

/** How many requests that change something wait for their turn on a connection. */
const changing = new WeakMap<Socket, number>()

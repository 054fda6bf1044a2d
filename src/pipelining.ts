/**
 * HTTP/1.1 clients may send a request before the last one was answered (RFC 9112 §9.3.2). Node keeps the order of ServerResponses by itself;
 * here is what lets those that are written past them, or never get their turn, keep it too.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/** The answer that has its turn on the connection, as Node keeps it; it closes the connection behind the `_last` one. */
interface HttpSocket extends Socket {
  _httpMessage?: (ServerResponse & { _last?: boolean }) | null
  /** The server that accepted it, as net and tls keep it. */
  readonly server?: object
}

/** The answer to a wholly received request that is still due on the connection. */
function answerDue (socket: HttpSocket): ServerResponse | undefined {
  const answer = socket._httpMessage
  return answer && answer.req.complete ? answer : undefined
}

/** Whether the connection waits for what is to be answered to a wholly received request. */
export function awaitsAnswer (socket: Socket): boolean {
  return answerDue(socket)?.writableEnded === false
}

/** The answer, begun or not, to the request whose body is on its way. */
export function answerOfUnreceived (socket: Socket): ServerResponse | undefined {
  const current = (socket as HttpSocket)._httpMessage
  if (current && !current.req.complete) return current
  const line = lines.get(socket)
  return line !== undefined && line.waiting.has(line.latest) && !line.latest.req.complete ? line.latest : undefined
}

/**
 * Calls back when the answers to all earlier requests on the connection have left: at once when none is due, never when the connection
 * ends before.
 */
export function afterAnswers (socket: Socket, callback: () => void): void {
  // After an upgrade Node has taken its own listeners off the socket. An error is told later than it happens: this one stays.
  if (!socket.listeners('error').includes(ignore)) socket.on('error', ignore)
  const due = answerDue(socket)
  if (due === undefined) return socket.writable ? callback() : undefined
  waitForAnswers(socket)
  const relayDrain = () => { if (due.writableNeedDrain) due.emit('drain') }
  socket.on('drain', relayDrain)
  due.once('finish', () => { // Node's own listener came first: the next answer has its turn
    socket.off('drain', relayDrain)
    if (!socket.destroyed && socket.writable) {
      socket.setTimeout(0)
      afterAnswers(socket, callback)
    }
  })
}

function ignore (): void {}

/** Connections that wait in afterAnswers(), by server: Node forgets those that it took its parser off. */
const waitingSockets = new WeakMap<object, Set<Socket>>()

function waitForAnswers (socket: HttpSocket): void {
  const { server } = socket
  if (server === undefined) return
  let sockets = waitingSockets.get(server)
  if (sockets === undefined) waitingSockets.set(server, sockets = new Set())
  if (sockets.has(socket)) return
  sockets.add(socket)
  socket.once('close', () => sockets.delete(socket))
}

/** What `server.closeAllConnections()` leaves open: connections with an upgrade or a CONNECT behind answers that were never given. */
export function closeWaitingConnections (server: object): void {
  for (const socket of waitingSockets.get(server) ?? []) socket.destroy()
}

/** The answers of a connection that wait for their turn. */
interface Line {
  readonly waiting: Set<ServerResponse>
  /** The one that joined last, whether or not it waits still. */
  latest: ServerResponse
  /** How many of those that wait are to requests that change something. */
  changing: number
}

const lines = new WeakMap<Socket, Line>()

/**
 * Puts an answer that has to wait for its turn in line. Node tells only the answer that has its turn of a connection that is over: here the
 * others are told, also one that comes when it is over already. One that is in line stays where it is.
 */
export function joinLine ({ socket, method }: IncomingMessage, response: ServerResponse): void {
  if (socket.destroyed) return tellOver(response)
  let line = lines.get(socket)
  if (line?.waiting.has(response)) return
  if (line === undefined) {
    const created = line = { waiting: new Set(), latest: response, changing: 0 }
    lines.set(socket, created)
    socket.once('close', () => {
      for (const waiting of created.waiting) tellOver(waiting)
    })
  }
  const joined = line
  const changes = safeMethods.has(method) ? 0 : 1
  joined.waiting.add(response)
  joined.latest = response
  joined.changing += changes
  const leave = () => { if (joined.waiting.delete(response)) joined.changing -= changes }
  response.once('socket', leave).once('close', leave)
}

/** Tells an answer, once, that it can't be given any more, as Node tells the one that has its turn when its connection is over. */
export function tellOver (response: ServerResponse): void {
  if (response.destroyed) return
  response.destroyed = true
  ;(response as { _closed?: boolean })._closed = true // for who comes too late for the event: stream.finished() looks at it
  response.emit('close')
}

/** Whether requests came on the connection behind the one of `response`, whose answers are due after it: to close the connection then would lose them. */
export function hasFollowers (socket: Socket, response: ServerResponse): boolean {
  const line = lines.get(socket)
  return line !== undefined && line.waiting.size > 0 && line.latest !== response
}

/**
 * Whether an earlier answer on the connection says that it closes: the request is not to be processed then (RFC 9112 §9.6), least of all when
 * what was refused before it had two readings, and this is a piece of one. Since nothing joins behind such an answer, it is the latest or has
 * its turn.
 */
export function isBehindLast ({ socket }: IncomingMessage, response: ServerResponse): boolean {
  if (!socket.writable) return true
  if (response.socket !== null) return false
  return closes((socket as HttpSocket)._httpMessage) || closes(lines.get(socket)?.latest)
}

function closes (answer: HttpSocket['_httpMessage']): boolean {
  return answer?.headersSent === true && answer._last === true
}

const safeMethods: ReadonlySet<string | undefined> = new Set(['GET', 'HEAD', 'OPTIONS'])

/**
 * Calls back when the request may be processed: at once when it and all those before it on the connection only read, else when its answer has
 * its turn, since what one changes the next may rely on (RFC 9112 §9.3.2). Never when the connection ends before.
 */
export function inSafeOrder ({ socket }: IncomingMessage, response: ServerResponse, callback: () => void): void {
  if (response.socket !== null) return callback()
  if (lines.get(socket)?.changing === 0 && safeMethods.has((socket as HttpSocket)._httpMessage?.req.method)) return callback()
  response.once('socket', () => queueMicrotask(callback))
}

/**
 * What only a listener can do: framing, head limits and times, `Expect`, and answers to what Node's parser refuses. A host application
 * that creates its server with serverOptions() gets the same as `fleet-gateway serve`.
 */
import { randomUUID } from 'node:crypto'
import { createServer, STATUS_CODES, type IncomingMessage, type RequestListener, type Server, type ServerOptions as HttpServerOptions, type ServerResponse } from 'node:http'
import { createServer as createTlsServer, type Server as TlsServer, type ServerOptions as TlsServerOptions } from 'node:https'
import type { Socket } from 'node:net'
import * as fastifyModule from 'fastify'
import type { ConnectionError, FastifyReply, FastifyServerOptions } from 'fastify'
import { BadRequestError, ExpectationFailedError, HeadersTooLargeError, MethodNotAllowedError, NotImplementedError, RequestTimeoutError, type FleetError } from './errors.ts'
import { announcesBody } from './announced-body.ts'
import { accountId, recordRefusal } from './facts-of.ts'
import { endLingering } from './linger.ts'
import { afterAnswers, answerOfUnreceived, awaitsAnswer, inSafeOrder, isBehindLast, joinLine, tellOver } from './pipelining.ts'
import { renderProblem, toFleetError, type RenderedProblem } from './problem.ts'
import { requestIdOf } from './request-id.ts'
import { usualMethods } from './route-table.ts'
import { routableTarget } from './request-target.ts'

/** Bytes of request line and header fields together; more is answered with 431. */
const maxHeadBytes = 32 * 1024
/** How long a request head may take to arrive; then 408. */
const headTimeoutMs = 10_000
/** How often Node looks for heads that took too long: its default of 30 s would make the timeout a fiction. */
const checkIntervalMs = 500
/** How long an idle keep-alive connection of a client stays open. */
const keepAliveMs = 72_000
/** How long the rest of a body that was answered already may take to arrive. */
const unreadBodyMs = 5_000

/** What Fastify was given beside serverOptions(), as far as it is about the server. */
interface HostOptions {
  readonly https?: TlsServerOptions | boolean | null
  readonly http2?: boolean
}

/**
 * Options for `Fastify(…)`. Add your own beside them; `serverFactory` and `clientErrorHandler` are needed as they are, and `http2` is
 * refused. For TypeScript, beside `https`: `serverOptions<https.Server>()`.
 */
export function serverOptions<S extends Server | TlsServer = Server> (): FastifyServerOptions<S> {
  const http: HttpServerOptions = {
    maxHeaderSize: maxHeadBytes,
    headersTimeout: headTimeoutMs,
    requestTimeout: 0,
    connectionsCheckingInterval: checkIntervalMs,
    keepAliveTimeout: keepAliveMs,
    requireHostHeader: false, // Node's own refusal has no body; createListener() refuses
    insecureHTTPParser: false,
    noDelay: true
  }
  return {
    serverFactory: (listener, { https, http2 }: HostOptions) => createListener(listener as RequestListener, http, https, http2) as S,
    clientErrorHandler: answerClientError,
    frameworkErrors: (error, _request, reply) => sendProblem(error, reply as FastifyReply),
    rewriteUrl: ({ url = '/' }) => routableTarget(url),
    ...withoutRequestLog<S>(), // the audit log has the line
    childLoggerFactory: logger => logger,
    requestIdHeader: false,
    genReqId: () => '', // the facts plugin gives ids
    return503OnClosing: false, // what arrives on a busy connection during a drain is still served
    forceCloseConnections: 'idle',
    bodyLimit: 256 * 1024, // of the gateway's own routes; forwarded bodies have server.bodyLimit
    routerOptions: { maxParamLength: maxHeadBytes } // a path is bounded by the head that it is in
  }
}

/** Fastify 5.9 moved the switch. */
function withoutRequestLog<S extends Server | TlsServer> (): FastifyServerOptions<S> {
  return 'LogController' in fastifyModule
    ? { logController: new fastifyModule.LogController({ disableRequestLogging: true }) }
    : { disableRequestLogging: true } as FastifyServerOptions<S>
}

/** The router refused the path before any hook could. */
function sendProblem (error: Error, reply: FastifyReply): void {
  const id = requestIdOf(reply.request.headers['x-request-id'])
  const { status, headers, body } = renderProblem(toFleetError(error), id)
  void reply.code(status).headers({ ...headers, 'x-request-id': id, connection: 'close' }).serializer((text: string) => text).send(body)
}

/** Fastify leaves everything to a server factory, so TLS and HTTP/2 have to be seen to here. */
function createListener (listener: RequestListener, options: HttpServerOptions, https: HostOptions['https'], http2 = false): Server {
  if (http2) throw new Error('serverOptions() is for HTTP/1.1: leave http2 out, and let a proxy in front speak HTTP/2')
  const accept: RequestListener = (request, response) => {
    if (isBehindLast(request, response)) return
    if (response.socket === null) joinLine(request, response)
    if (announcesBody(request.headers)) response.once('finish', () => endBehindRest(request))
    if (request.headers.host === undefined && request.httpVersion !== '1.0') return answerProblem(response, new BadRequestError('The Host header is missing'))
    inSafeOrder(request, response, () => listener(request, response))
  }
  const server = https ? createTlsServer({ ...options, handshakeTimeout: headTimeoutMs, ...(https === true ? {} : https) }, accept) : createServer(options, accept)
  if (https) watchHandshakes(server)
  // Node ends a connection behind its last answer by this, and would reset it when more has come.
  server.on(https ? 'secureConnection' : 'connection', (socket: Socket) => { socket.destroySoon = endSoon })
  server.maxHeadersCount = 0 // the bound is in bytes; Node would drop fields past its count silently
  const refuseExpectation = (request: IncomingMessage, response: ServerResponse) => {
    if (isBehindLast(request, response)) return
    if (response.socket === null) joinLine(request, response) // what comes behind must see that this one closes
    answerProblem(response, new ExpectationFailedError('The only expectation that can be met is 100-continue'))
  }
  server.on('checkContinue', (request, response) => {
    if (request.headers.expect?.toLowerCase() !== '100-continue') return refuseExpectation(request, response) // there is another beside it
    continueWhenRead(request, response)
    accept(request, response)
  })
  server.on('checkExpectation', refuseExpectation)
  server.on('connect', (_request: IncomingMessage, socket: Socket) => {
    socket.on('error', () => socket.destroy())
    afterAnswers(socket, () => writeError(socket, new MethodNotAllowedError('CONNECT is not allowed', { headers: { allow: usualMethods } })))
  })
  return server
}

/**
 * What comes before there is TLS is no HTTP: nobody's request, so that it is neither answered with a problem nor told to the log. Node's own way
 * would be a `clientError`. A server that is to end all connections ends these, too.
 */
function watchHandshakes (server: Server): void {
  const handshakes = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    handshakes.add(socket)
    socket.once('close', () => handshakes.delete(socket))
  })
  server.on('secureConnection', ({ _parent: socket }: HandshakenSocket) => { if (socket) handshakes.delete(socket) })
  server.removeAllListeners('tlsClientError')
  server.on('tlsClientError', ({ code }: NodeJS.ErrnoException, socket: HandshakenSocket) => {
    // In clear, for who speaks plain HTTP by mistake.
    if (code === 'ERR_SSL_HTTP_REQUEST' && socket._parent) writeError(socket._parent, new BadRequestError('This port speaks HTTPS: begin the address with https://'))
    socket.destroy()
  })
  const { closeAllConnections } = server
  server.closeAllConnections = () => {
    closeAllConnections.call(server)
    for (const socket of handshakes) socket.destroy()
  }
}

/** The TLS side of a connection, which keeps the TCP side so. */
type HandshakenSocket = Socket & { readonly _parent?: Socket | null }

function endSoon (this: Socket): void {
  endLingering(this)
}

/**
 * Sends `100 Continue` when somebody begins to read the body, so after auth, limits and whatever else refuses without reading it
 * (RFC 9110 §10.1.1).
 */
function continueWhenRead (request: IncomingMessage, response: ServerResponse): void {
  const read = request._read
  request._read = function (size: number) {
    request._read = read
    if (!response.headersSent) response.writeContinue()
    read.call(request, size)
  }
  // The client did not wait: nothing of the body is left to come, for which Node would close the connection.
  request.once('end', () => { (response as { _expect_continue?: boolean })._expect_continue = false })
}

/** What was answered before its body was all there, the last on each connection. */
const unreadRests = new WeakMap<Socket, { readonly request: IncomingMessage, readonly timer: NodeJS.Timeout }>()

/** After the answer nobody reads the rest of the body. A short one may arrive, so that the connection can be used again; a long one is not waited for. */
function endBehindRest (request: IncomingMessage): void {
  const { socket } = request
  if (request.complete || socket.destroyed || refused.has(socket)) return
  const timer = setTimeout(() => { if (!request.complete && !socket.destroyed) endLingering(socket) }, unreadBodyMs)
  request.once('close', () => clearTimeout(timer)) // also when the connection ends first
  unreadRests.set(socket, { request, timer })
}

/** Connections whose last answer was given, or waits for those before it. What else comes on them is not looked at. */
const refused = new WeakSet<Socket>()

/**
 * Answers what Node's parser refused, behind what is still to be answered before it, and closes the connection. When that was the body of a request
 * that has no answer yet, its exchange is over at once, and it is its answer.
 */
function answerClientError (error: ConnectionError, socket: Socket): void {
  clearTimeout(unreadRests.get(socket)?.timer) // nothing of it can come, and nobody tells the request
  if (error.code !== 'ECONNRESET' && (refused.has(socket) || socket.writableEnded)) return
  if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy()
  refused.add(socket)
  const hasLeft = error.code === 'HPE_INVALID_EOF_STATE' // most likely, and it counts as such
  if (hasLeft && awaitsAnswer(socket)) return void socket.destroy() // as Node has it where all requests are whole
  const answer = answerOfUnreceived(socket)
  if (answer?.headersSent === true) return afterAnswers(socket, () => endBehindAnswer(socket, answer))
  const id = (answer && accountId(answer)) ?? requestIdOf(answer?.req.headers['x-request-id'])
  const refusal = parserError(error)
  const problem = renderProblem(refusal, id)
  if (answer?.req.method === 'HEAD') problem.body = ''
  if (answer !== undefined) recordRefusal(answer, { id, ...(!hasLeft && { status: problem.status, code: refusal.code, bytesSent: Buffer.byteLength(problem.body), ending: 'complete' }) })
  afterAnswers(socket, () => {
    if (unreadRests.get(socket)?.request.complete === false) return endLingering(socket) // its answer is out, and one request has one
    writeProblem(socket, problem, id)
  })
  if (answer !== undefined) tellOver(answer)
}

/** One request has one answer: of one that has begun nothing more comes than is there. */
function endBehindAnswer (socket: Socket, answer: ServerResponse): void {
  if (answer.writableFinished) endLingering(socket)
  else if (answer.writableEnded) answer.once('finish', () => endLingering(socket))
  else socket.destroy()
}

function parserError ({ code, rawPacket }: ConnectionError): FleetError {
  switch (code) {
    case 'HPE_HEADER_OVERFLOW':
      return new HeadersTooLargeError(`The request head is over ${maxHeadBytes} bytes`)
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new RequestTimeoutError(`The request head took longer than ${headTimeoutMs / 1_000} s`)
    case 'HPE_INVALID_TRANSFER_ENCODING':
      return hasForeignCoding(rawPacket as unknown as Buffer | undefined)
        ? new NotImplementedError('No transfer coding but "chunked" is implemented')
        : new BadRequestError('The Transfer-Encoding header is invalid')
    default:
      return new BadRequestError('The request is not valid HTTP')
  }
}

/** The last transfer coding is not `chunked`, or there is one that we don't know. */
function hasForeignCoding (packet: Buffer | undefined): boolean {
  const value = /\r?\ntransfer-encoding[ \t]*:([^\r\n]*)/i.exec(packet?.toString('latin1') ?? '')?.[1] ?? ''
  return value.split(',').some(coding => coding.trim() !== '' && coding.trim().toLowerCase() !== 'chunked')
}

/** In its turn, and closes the connection. */
function answerProblem (response: ServerResponse, error: FleetError): void {
  const id = requestIdOf(response.req.headers['x-request-id'])
  const { status, headers, body } = renderProblem(error, id)
  response.writeHead(status, { ...headers, 'x-request-id': id, connection: 'close' }).end(body)
}

/** Past Node's answers, and closes the connection. */
function writeProblem (socket: Socket, { status, headers, body }: RenderedProblem, id: string): void {
  const fields = Object.entries({ ...headers, 'x-request-id': id, connection: 'close', date: new Date().toUTCString() })
  const head = fields.map(([name, value]) => `${name}: ${value}\r\n`).join('')
  socket.on('error', () => socket.destroy())
  socket.write(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${head}\r\n${body}`)
  endLingering(socket)
}

function writeError (socket: Socket, error: FleetError): void {
  const id = randomUUID()
  writeProblem(socket, renderProblem(error, id), id)
}

/**
 * The certificate of the gateway's own listener, as `server.tls` names it: read at the start, and loaded anew when its files change. Connections
 * that are open stay as they are; a pair that is no good is reported, and the one in use stays.
 */
import type { RequestListener, Server } from 'node:http'
import type { Server as TlsServer, ServerOptions as TlsServerOptions } from 'node:https'
import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyBaseLogger, FastifyInstance, FastifyServerOptions } from 'fastify'
import { watchStat } from './file-watch.ts'
import type { OptionError } from './options.ts'
import type { ServerOptions } from './server-options.ts'
import { readKeyPair, validityProblem, type FileProblem, type KeyPair } from './tls-files.ts'

/** `server.tls`, resolved. */
export type ListenerTls = NonNullable<ServerOptions['tls']>

declare module 'fastify' {
  interface FastifyInstance {
    /** The listener's certificate; only of a gateway with a server of its own, where `server.tls` names one. */
    certificate?: Certificate
  }
}

export interface Certificate {
  /** Reads the files again now; resolves with whether what they hold is in use then. Never rejects. */
  reload (): Promise<boolean>
}

/** How often the files are looked at. */
const intervalMs = 1_000
/** Certificate and key are two files, and are replaced one after the other: they must stand still for so long, */
const settleMs = 50
/** and what does not belong together gets so many looks before it is called wrong. */
const mostLooks = 40

type ServerFactory = NonNullable<FastifyServerOptions['serverFactory']>

export class ListenerCertificate implements Certificate {
  readonly #settings: ListenerTls
  /** What the listener uses. */
  #pair: KeyPair
  /** Fastify makes one for each address of `localhost`. */
  readonly #servers = new Set<TlsServer>()
  #log: FastifyBaseLogger | null = null
  #unwatch: (() => void)[] = []
  #running: Promise<unknown> = Promise.resolve()
  #queued: Promise<boolean> | null = null
  #closed = false
  /** What was said last to be wrong, so that it is said once. */
  #complaint = ''

  constructor (settings: ListenerTls, pair: KeyPair) {
    this.#settings = settings
    this.#pair = pair
  }

  /** For Fastify, behind those of serverOptions(). @param serverFactory makes the servers */
  serverOptions (serverFactory: ServerFactory): { https: TlsServerOptions, serverFactory: ServerFactory } {
    return {
      https: this.#contextOptions(),
      serverFactory: (listener: RequestListener, options: Record<string, unknown>): Server => {
        const server = serverFactory(listener, options) as TlsServer
        server.setSecureContext(this.#contextOptions()) // a later one may be made when the first has a newer certificate already
        this.#servers.add(server)
        return server
      }
    }
  }

  /** Watches the files until the application closes. */
  async keep (app: FastifyInstance): Promise<void> {
    this.#log = app.log
    const { certFile, keyFile, passphraseFile } = this.#settings
    app.decorate('certificate', { reload: () => this.reload() })
    app.addHook('onClose', async () => {
      this.#closed = true
      for (const stop of this.#unwatch) stop()
      await this.#running
    })
    this.#warnOfDates()
    for (const file of [certFile, keyFile, passphraseFile]) {
      if (file !== undefined) this.#unwatch.push(await watchStat(file, intervalMs, () => void this.reload()))
    }
    void this.reload() // for what changed before it was watched
  }

  reload (): Promise<boolean> {
    this.#queued ??= this.#inTurn(async () => {
      this.#queued = null
      return this.#look()
    })
    return this.#queued
  }

  #inTurn (task: () => Promise<boolean>): Promise<boolean> {
    const turn = this.#running.then(task)
    this.#running = turn
    return turn
  }

  async #look (): Promise<boolean> {
    let before = ''
    for (let looks = 1; !this.#closed; looks++) {
      const { value, problems } = readKeyPair(this.#settings)
      if (value !== null && textOf(value) === textOf(this.#pair)) return this.#isCurrent()
      const seen = value === null ? JSON.stringify(problems) : textOf(value)
      if (value !== null && seen === before) return this.#use(value)
      if (looks >= mostLooks) return this.#refuse(problems)
      before = seen
      await delay(settleMs, undefined, { ref: false })
    }
    return false
  }

  #isCurrent (): boolean {
    if (this.#complaint !== '') this.#log?.info('The files of server.tls hold again the certificate that is in use')
    this.#complaint = ''
    return true
  }

  #use (pair: KeyPair): boolean {
    this.#pair = pair
    this.#complaint = ''
    for (const server of this.#servers) server.setSecureContext(this.#contextOptions())
    this.#log?.info('The certificate of server.tls was loaded anew')
    this.#warnOfDates()
    return true
  }

  #refuse (problems: readonly FileProblem[]): boolean {
    const lines = problems.length === 0 ? ['the files of server.tls change all the time'] : problems.map(({ key, message }) => `server.tls.${key} ${message}`)
    if (lines.join('\n') === this.#complaint) return false
    this.#complaint = lines.join('\n')
    for (const line of lines) this.#log?.error(line)
    this.#log?.warn('The certificate was not loaded anew; the one in use stays')
    return false
  }

  #warnOfDates (): void {
    const problem = validityProblem(this.#pair.cert, new Date())
    if (problem !== undefined) this.#log?.warn(`The certificate in server.tls.certFile ${problem}: clients will refuse it`)
  }

  #contextOptions () {
    return { ...this.#pair, minVersion: `TLSv${this.#settings.minVersion ?? 1.2}` as 'TLSv1.2' | 'TLSv1.3' }
  }
}

function textOf ({ cert, key, passphrase = '' }: KeyPair): string {
  return [cert, key, passphrase].join('\0')
}

/** Reads the files of `server.tls`; what is wrong with them is at paths of the configuration. */
export function readListenerPair (tls: ListenerTls): { value: KeyPair | null, problems: OptionError[] } {
  const { value, problems } = readKeyPair(tls)
  return { value, problems: problems.map(({ key, message }) => ({ path: `server.tls.${key}`, at: 'value', message })) }
}

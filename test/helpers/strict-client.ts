/** A client that reads answers strictly and tells a whole one from one that was cut off. */
import { connect, type Socket } from 'node:net'
import { StrictReader, type HttpMessage } from './strict-http.ts'

export interface Answered {
  /** The final answer when it came whole. */
  readonly answer: HttpMessage | null
  readonly interims: readonly HttpMessage[]
  /** The answer began and did not come whole. */
  readonly cut: HttpMessage | null
  /** What is wrong with what came. */
  readonly violation: string | null
  /** The connection broke off rather than ended. */
  readonly reset: boolean
}

/** Sends one request and resolves when its answer is here or can't come any more. The connection is ended then. */
export function askStrictly (port: number, method: string, request: string | Buffer): Promise<Answered> {
  return new Promise(resolve => {
    const socket: Socket = connect({ port, host: '127.0.0.1', noDelay: true })
    const reader = new StrictReader([method])
    let violation: string | null = null
    let reset = false
    const settle = () => {
      socket.destroy()
      const final = reader.messages.find(({ status }) => status >= 200) ?? null
      resolve({ answer: final, interims: reader.messages.filter(({ status }) => status < 200), cut: final === null ? reader.current : null, violation, reset })
    }
    socket.on('data', bytes => {
      try {
        reader.push(bytes)
      } catch (error) {
        violation = (error as Error).message
        return settle()
      }
      if (reader.messages.some(({ status }) => status >= 200)) settle()
    })
    socket.on('end', () => {
      reader.end()
      settle()
    })
    socket.on('error', () => {
      reset = true
      settle()
    })
    socket.write(request)
  })
}

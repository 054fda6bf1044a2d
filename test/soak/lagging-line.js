/**
 * One gateway's own way to Redis, on which each kind of connection has a pace of its own: answers may come long before the messages of changes that they
 * are about, or long after. What is held back arrives later, in order.
 */
import { connect, createServer } from 'node:net'
import { once } from 'node:events'

/** Connections are told apart by what the gateway says on them: `main` asks and writes, `sub` is told of changes, `bulk` reads everything. */
export const kinds = ['main', 'sub', 'bulk']
/** To Redis, and from it: `main up` … */
export const ways = kinds.flatMap(kind => [`${kind} up`, `${kind} down`])

/** @param {number} redisPort where Redis listens @param {number} port where the gateway finds it */
export async function openLaggingLine (redisPort, port) {
  const connections = new Set()
  /** Milliseconds by way. */
  const lag = new Map()
  const frozen = new Set()
  let isCut = false

  /** Passes on what comes from one end to the other, each piece after the lag of its way. */
  function carry (connection, from, to, direction) {
    const queue = []
    let timer
    let last = 0
    const way = () => `${connection.kind} ${direction}`

    function pump () {
      clearTimeout(timer)
      timer = undefined
      while (queue.length > 0 && !frozen.has(way())) {
        const [{ at, chunk }] = queue
        const ms = at - performance.now()
        if (ms > 0.5) {
          timer = setTimeout(pump, ms)
          return
        }
        queue.shift()
        if (chunk !== undefined) to.write(chunk)
        else to.destroy()
      }
    }

    function take (chunk) {
      last = Math.max(last, performance.now() + (lag.get(way()) ?? 0))
      queue.push({ at: last, chunk })
      if (timer === undefined) pump()
    }

    from.on('data', chunk => {
      if (direction === 'up' && connection.kind === 'bulk') {
        if (/\r\nsubscribe/i.test(chunk)) connection.kind = 'sub'
        else if (/\r\nping\r\n/i.test(chunk)) connection.kind = 'main'
      }
      take(chunk)
    }).on('close', () => take()).on('error', () => {})
    return {
      pump,
      hurry () {
        for (const piece of queue) piece.at = 0
        last = 0
        pump()
      },
      end () {
        clearTimeout(timer)
        queue.length = 0
        from.destroy()
      }
    }
  }

  function drop (kind) {
    for (const connection of connections) {
      if (kind !== undefined && connection.kind !== kind) continue
      connections.delete(connection)
      for (const end of connection.ends) end.end()
    }
  }

  const everyEnd = act => { for (const { ends } of connections) for (const end of ends) end[act]() }

  const server = createServer(near => {
    if (isCut) return near.destroy()
    const far = connect(redisPort, '127.0.0.1')
    for (const socket of [near, far]) socket.setNoDelay()
    const connection = { kind: 'bulk', ends: [] }
    connection.ends.push(carry(connection, near, far, 'up'), carry(connection, far, near, 'down'))
    connections.add(connection)
    near.on('close', () => connections.delete(connection))
  }).listen(port, '127.0.0.1')
  await once(server, 'listening')
  return {
    port,
    /** From now on. */
    delay: (way, ms) => lag.set(way, ms),
    /** Nothing passes on a way until it thaws. */
    freeze: way => frozen.add(way),
    thaw (way) {
      frozen.delete(way)
      everyEnd('pump')
    },
    /** Connections end, of one kind or all; what was on its way is lost. */
    drop,
    /** And there are no others. */
    cut () {
      isCut = true
      drop()
    },
    mend () { isCut = false },
    /** All is as ever. @param late whether what is held back still takes the time that it was given */
    calm ({ late }) {
      lag.clear()
      frozen.clear()
      isCut = false
      everyEnd(late ? 'pump' : 'hurry')
    }
  }
}

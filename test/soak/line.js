/** One gateway's own way to Redis, so that it can be cut off while others are not. */
import { connect, createServer } from 'node:net'
import { once } from 'node:events'

/** @param {number} redisPort where Redis listens @param {number} port where the gateway finds it */
export async function openLine (redisPort, port) {
  const pairs = new Set()
  let isSilent = false

  const server = createServer(near => {
    const pair = { near, far: undefined }
    pairs.add(pair)
    near.on('error', () => {}).on('close', () => {
      pairs.delete(pair)
      pair.far?.destroy()
    })
    if (isSilent) near.pause()
    else join(pair)
  })

  function join (pair) {
    const { near } = pair
    if (pair.far?.destroyed) return near.destroy()
    pair.far ??= connect(redisPort, '127.0.0.1').on('error', () => {}).on('close', () => { if (!isSilent) near.destroy() })
    near.pipe(pair.far).pipe(near)
  }

  async function listen () {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
  }

  function drop () {
    for (const { near, far } of pairs) {
      near.destroy()
      far?.destroy()
    }
    isSilent = false
  }

  await listen()
  return {
    port,
    /** Connections end, and there are no others. */
    async cut () {
      const closed = once(server, 'close')
      server.close()
      drop()
      await closed
    },
    mend: listen,
    /** Connections are taken, and nothing passes. */
    silence () {
      isSilent = true
      for (const { near, far } of pairs) {
        near.unpipe().pause()
        far?.unpipe().pause()
      }
    },
    /** What was said meanwhile arrives now. */
    deliver () {
      isSilent = false
      for (const pair of pairs) join(pair)
    },
    /** What was said meanwhile never arrives. */
    drop
  }
}

/** Passes bytes on and reads none of them, on a connection to the upstream for each one of a client: what no proxy on Node can do without. */
import { connect, createServer } from 'node:net'

const [port, upstream] = process.argv.slice(2)

const server = createServer({ noDelay: true }, client => {
  const agent = connect({ port: Number(new URL(upstream).port), host: '127.0.0.1', noDelay: true })
  for (const [from, to] of [[client, agent], [agent, client]]) {
    from.on('data', bytes => to.write(bytes))
    from.on('error', error => { if (error.code !== 'ECONNRESET' && error.code !== 'EPIPE') throw error })
    from.on('close', () => to.destroy())
  }
})
server.listen(Number(port), '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`))

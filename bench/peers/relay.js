/** Passes bytes on and reads none of them, on a connection to the upstream for each one of a client: what no proxy on Node can do without. */
import { connect, createServer } from 'node:net'
import { pipeline } from 'node:stream'

const [port, upstream] = process.argv.slice(2)
const { port: upstreamPort } = new URL(upstream)

const server = createServer({ noDelay: true }, client => {
  pipeline(client, connect({ port: Number(upstreamPort), host: '127.0.0.1', noDelay: true }), client, error => { if (error) console.error(error.message) })
})
server.listen(Number(port), '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`))

/** fast-gateway in front of one upstream. */
import gateway from 'fast-gateway'

const [port, upstream] = process.argv.slice(2)

const server = await gateway({ routes: [{ prefix: '/api/planner', target: upstream }] }).start(Number(port), '127.0.0.1')
console.log(`listening on http://127.0.0.1:${server.address().port}`)

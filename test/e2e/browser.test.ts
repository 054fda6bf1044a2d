import t from 'tap'
import { buildGateway } from '../helpers/build-gateway.ts'

const evil = { origin: 'https://evil.example' }

t.test('with auth off pages of elsewhere are kept out, unless they were asked in', async t => {
  const table: [object, Record<string, string>, number, string | undefined][] = [
    [{}, evil, 403, undefined],
    [{}, { origin: 'http://localhost:3000' }, 200, 'http://localhost:3000'],
    [{}, { host: 'evil.example' }, 403, undefined],
    [{ origins: ['*'] }, evil, 200, '*'],
    [{ origins: ['https://app.example'] }, evil, 403, undefined],
    [{ origins: ['https://app.example'] }, { origin: 'https://app.example' }, 200, 'https://app.example']
  ]
  for (const [cors, headers, status, allowed] of table) {
    const gateway = await buildGateway(t, { cors: { enabled: true, ...cors } })
    const reply = await gateway.inject({ url: '/agents', headers })
    t.equal(reply.statusCode, status, JSON.stringify([cors, headers]))
    if (status === 200) t.equal(reply.headers['access-control-allow-origin'], allowed)
  }
})

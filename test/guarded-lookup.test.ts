import t from 'tap'
import { createServer, connect, isIP, type AddressInfo, type LookupFunction } from 'node:net'
import { once } from 'node:events'
import type { LookupAddress } from 'node:dns'
import { createLookupOf, type ResolveAll } from '../src/guarded-lookup.ts'
import { newRuntime, type Instance, type Source } from '../src/fleet/instance.ts'
import { startGateway } from './helpers/build-gateway.ts'
import { fakeAgent } from './helpers/fake-agent.ts'

function instanceAt (host: string, source: Source): Instance {
  return { id: 'i', agent: 'a', protocol: 'http', host, port: 80, origin: `http://${host}`, weight: 1, source, trusted: true, lease: null, runtime: newRuntime() }
}

function resolvingTo (...addresses: string[]): ResolveAll {
  const found = addresses.map((address): LookupAddress => ({ address, family: isIP(address) }))
  return (_hostname, _options, callback) => callback(null, found)
}

function ask (lookup: LookupFunction, all: boolean): Promise<unknown> {
  return new Promise((resolve, reject) => lookup('name.test', { all }, (error, found) => { error ? reject(error) : resolve(found) }))
}

function askFor (hostname: string, lookup: LookupFunction): Promise<unknown> {
  return new Promise((resolve, reject) => lookup(hostname, {}, (error, found) => { error ? reject(error) : resolve(found) }))
}

t.test('only names of instances that registered themselves are guarded', async t => {
  const lookupOf = createLookupOf(undefined)

  t.equal(lookupOf(instanceAt('name.test', 'file')), undefined)
  t.equal(lookupOf(instanceAt('127.0.0.1', 'api')), undefined)
  t.type(lookupOf(instanceAt('name.test', 'api')), 'function')
})

t.test('a name that leads to a refused address leads nowhere', async t => {
  const api = instanceAt('name.test', 'api')
  const table: [string[], string[] | undefined, string | null][] = [
    [['169.254.169.254'], undefined, null], [['0.0.0.0'], undefined, null], [['fe80::1'], undefined, null], [['::ffff:169.254.169.254'], undefined, null],
    [['169.254.169.254', '10.0.0.1'], undefined, '10.0.0.1'], [['127.0.0.1'], undefined, '127.0.0.1'],
    [['127.0.0.1'], ['10.0.0.0/8', '.test'], null], [['10.1.2.3'], ['10.0.0.0/8', '.test'], '10.1.2.3'], [['192.0.2.1'], ['.test'], '192.0.2.1']
  ]
  for (const [addresses, allowedHosts, expected] of table) {
    const lookup = createLookupOf(allowedHosts, { resolve: resolvingTo(...addresses) })(api)!
    if (expected === null) {
      await t.rejects(ask(lookup, false), { code: 'FLEET_ADDRESS_REFUSED' }, addresses.join())
    } else {
      t.equal(await ask(lookup, false), expected)
      t.same(await ask(lookup, true), [{ address: expected, family: 4 }])
    }
  }
})

t.test('it is asked at each connection, and the system\'s errors pass', async t => {
  const server = createServer(socket => socket.end('hello')).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const lookup = createLookupOf(undefined, { resolve: resolvingTo('127.0.0.1') })(instanceAt('name.test', 'api'))!

  const socket = connect({ host: 'name.test', port: (server.address() as AddressInfo).port, lookup })
  t.equal(String((await once(socket, 'data'))[0]), 'hello')

  const failing = createLookupOf(undefined, { resolve: (_hostname, _options, callback) => callback(Object.assign(new Error('no'), { code: 'ENOTFOUND' }), []) })(instanceAt('name.test', 'api'))!
  await t.rejects(ask(failing, false), { code: 'ENOTFOUND' })
})

t.test('a localhost that may be registered leads to loopback, whatever ranges are allowed beside it', async t => {
  const allowedHosts = ['localhost', '10.0.0.0/8']
  const lookupOf = createLookupOf(allowedHosts, { resolve: resolvingTo('127.0.0.1', '192.0.2.1') })

  t.equal(await askFor('localhost', lookupOf(instanceAt('localhost', 'api'))!), '127.0.0.1')
  await t.rejects(askFor('name.test', lookupOf(instanceAt('name.test', 'api'))!), { code: 'FLEET_ADDRESS_REFUSED' }, 'another name is not')
})

t.test('the gateway itself is nothing that may be connected to, on its own port', async t => {
  const lookupOf = createLookupOf(undefined, { resolve: resolvingTo('10.0.0.1'), isOwn: (address, port) => address === '10.0.0.1' && port === 9001 })

  await t.rejects(askFor('name.test', lookupOf({ ...instanceAt('name.test', 'api'), port: 9001 })!), { code: 'FLEET_ADDRESS_REFUSED' })
  t.equal(await askFor('name.test', lookupOf({ ...instanceAt('name.test', 'api'), port: 9002 })!), '10.0.0.1')
})

t.test('who keeps an instance keeps no trust that fleet.yaml took back', async t => {
  const kept = instanceAt('name.test', 'file')
  const lookupOf = createLookupOf(undefined, { current: instance => ({ ...instance, source: 'api' }) })

  t.type(lookupOf(kept), 'function')
})

t.test('a registered localhost still works', async t => {
  const agent = await fakeAgent(t)
  const gateway = await startGateway(t)
  gateway.registry.register({ name: 'planner', host: 'localhost', port: agent.port })

  t.equal((await fetch(`${gateway.origin}/api/planner/x`)).status, 200)
})

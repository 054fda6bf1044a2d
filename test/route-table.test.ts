/** A path finds its route as Fastify's router does. */
import t from 'tap'
import { RouteTable } from '../src/route-table.ts'

function table (): RouteTable<string> {
  const routes = new RouteTable<string>('/fleet')
  routes.add('/fleet/', ['GET', 'HEAD'], 'root')
  routes.add('/fleet/registry/register', 'POST', 'register')
  routes.add('/fleet/registry/:name', 'DELETE', 'remove')
  routes.add('/fleet/registry/:name', 'POST', 'odd')
  routes.add('/fleet/api/*', ['GET', 'POST'], 'proxy')
  routes.add('/fleet/api/', 'GET', 'exact')
  routes.add('/fleet/*', 'OPTIONS', 'preflight')
  return routes
}

t.test('of several routes the one with the fewest parameters, and what stands for them', async t => {
  const cases: [string, string, object | undefined][] = [
    ['POST', '/fleet/registry/register', { config: 'register', params: {} }],
    ['DELETE', '/fleet/registry/register', { config: 'remove', params: { name: 'register' } }],
    ['POST', '/fleet/registry/x', { config: 'odd', params: { name: 'x' } }],
    ['GET', '/fleet/api/', { config: 'exact' }],
    ['GET', '/fleet/api/a/b', { config: 'proxy', params: { '*': 'a/b' } }],
    ['GET', '/fleet/a%70i/a%25b', { config: 'proxy', params: { '*': 'a%25b' } }],
    ['DELETE', '/fleet/registry/', { config: 'remove', params: { name: '' } }],
    ['GET', '/fleet', { config: 'root' }],
    ['GET', '/fleet/', { config: 'root' }],
    ['OPTIONS', '/fleet/x', undefined],
    ['GET', '/fleet/registry/a/b', undefined]
  ]
  for (const [method, path, expected] of cases) t.match(table().find(method, path), expected ?? undefined, `${method} ${path}`)
  t.equal(table().find('OPTIONS', '/fleet/x'), undefined)
})

t.test('the methods of a path', async t => {
  t.same([...table().methodsAt('/fleet/registry/register')].sort(), ['DELETE', 'POST'])
  t.same([...table().methodsAt('/fl%65et/r%65gistry/%72egister')].sort(), ['DELETE', 'POST'], 'however it is encoded')
  t.same([...table().methodsAt('/fleet%2Fregistry/register')], [], 'but for what means something else then')
  t.same([...table().methodsAt('/elsewhere')], [])
  t.same([...table().methodsAt('/fleet/registry/')], [], 'of nobody')
  t.same([...table().methodsAt('/fleet/api/')].sort(), ['GET', 'POST'])
})

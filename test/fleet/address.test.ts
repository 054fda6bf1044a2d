/** src/fleet/address.ts: what is a host, and what a registration may not aim the gateway at. */
import t from 'tap'
import { allowedHostProblem, canonicalHost, hostProblem, isAddressRange, isLoopbackAddress, isLoopbackName, isRefusedAddress, registrationHostProblem, resolvedAddressProblem } from '../../src/fleet/address.ts'

t.test('a host is a bare name or an IP literal', async t => {
  const hosts = ['localhost', 'agent_1', 'a-b.example.com', 'example.com.', 'xn--bcher-kva.example', '3com.com', '127.0.0.1', '10.1.2.3', '::1', 'fd00::1', '2001:db8::1']
  for (const host of hosts) t.equal(hostProblem(host), undefined, host)
})

t.test('what is no host is refused with the reason', async t => {
  const cases: [string, RegExp][] = [
    ['', /empty/],
    ['a b', /spaces/],
    ['a\n', /spaces/],
    ['http://a', /scheme/],
    ['a/b', /path/],
    ['user@a', /user/],
    ['a\\b', /path/],
    ['a?b', /bare/],
    ['a#b', /bare/],
    ['[::1]', /brackets/],
    ['a:80', /without a port/],
    ['127.0.0.1:80', /without a port/],
    ['a:b:c', /IPv6/],
    ['fe80::1%eth0', /zone/],
    ['a%2e', /zone/],
    ['-a', /valid host name/],
    ['a-', /valid host name/],
    ['a..b', /valid host name/],
    ['.a', /valid host name/],
    ['.', /valid host name/],
    ['bücher.example', /valid host name/],
    ['a\0', /valid host name/],
    ['x'.repeat(64), /valid host name/],
    [`${'a.'.repeat(127)}a`, /valid host name/]
  ]
  for (const [host, reason] of cases) t.match(hostProblem(host), reason, JSON.stringify(host))
})

t.test('two spellings of a host are one', async t => {
  t.equal(canonicalHost('LocalHost'), 'localhost')
  t.equal(canonicalHost('Agent.Internal.'), 'agent.internal')
  t.equal(canonicalHost('2001:DB8:0:0::1'), '2001:db8::1')
  t.equal(canonicalHost('0:0:0:0:0:0:0:1'), '::1')
  t.equal(canonicalHost('127.0.0.1'), '127.0.0.1')
})

const refusedAddresses = [
  '169.254.0.1', '169.254.169.254', 'fe80::1', 'febf::1', // link-local
  'fd00:ec2::254', 'fd00:ec2::23', 'fd20:ce::254', 'fd00:c1::a9fe:a9fe', 'fd00:42::42', 'fd00:a9fe:a9fe::1', '100.100.100.200', '168.63.129.16', '192.0.0.192', // metadata
  '169.254.170.2', '169.254.170.23', '169.254.0.23', '169.254.42.42', 'fe80::a9fe:a9fe', // metadata that is link-local
  '0.0.0.0', '0.1.2.3', '::', // unspecified
  '224.0.0.1', '239.255.255.255', 'ff02::1', // multicast
  '255.255.255.255', '240.0.0.1', // broadcast, reserved
  '::ffff:127.0.0.1', '::ffff:a9fe:a9fe', '::ffff:0:169.254.169.254', '::169.254.169.254', '::2', '64:ff9b::169.254.169.254', '64:ff9b::a00:1', '64:ff9b:1::1', '2002:a9fe:a9fe::1', '2001:0:1::1'
]
const fineAddresses = ['127.0.0.1', '127.1.2.3', '10.0.0.1', '172.16.0.1', '192.168.1.1', '100.64.0.1', '100.100.100.201', '8.8.8.8', '223.255.255.255', '1.0.0.0', '169.253.255.255', '169.255.0.0', '::1', 'fd00::1', 'fc00::1', '2001:db8::1', '2606:4700::1111']

t.test('a registration may not name an address that reaches something else', async t => {
  for (const address of refusedAddresses) {
    t.match(registrationHostProblem(address), /^must not be /, address)
    t.ok(isRefusedAddress(address), address)
    t.match(resolvedAddressProblem(address), /^must not be /, address)
  }
})

t.test('other addresses are fine, private and loopback ones included', async t => {
  for (const address of fineAddresses) {
    t.equal(registrationHostProblem(address), undefined, address)
    t.notOk(isRefusedAddress(address), address)
    t.equal(resolvedAddressProblem(address), undefined, address)
  }
})

t.test('the reason says which kind of address it is', async t => {
  const cases: [string, string][] = [
    ['169.254.169.254', 'must not be a cloud metadata address'],
    ['169.254.1.1', 'must not be a link-local address'],
    ['::', 'must not be an unspecified address'],
    ['ff02::1', 'must not be a multicast address'],
    ['255.255.255.255', 'must not be a broadcast or reserved address'],
    ['::ffff:10.0.0.1', 'must not be an IPv6 address with an IPv4 address inside']
  ]
  for (const [host, reason] of cases) t.equal(registrationHostProblem(host), reason, host)
})

t.test('a spelling of an address can not slip past', async t => {
  for (const host of ['FE80::1', 'fe80:0:0::1', '0:0:0:0:0:ffff:7f00:1', '::FFFF:127.0.0.1', '169.254.169.254.']) t.match(registrationHostProblem(host), /^must not be /, host)
  for (const host of ['fe80::1%eth0', '::1%lo', '1.2.3.4%25']) t.match(registrationHostProblem(host), /zone/, host)
})

t.test('IPv4 in another form is refused', async t => {
  for (const host of ['2130706433', '0x7f000001', '0X7F000001', '0x7f.1', '127.1', '127.0.1', '010.0.0.1', '0177.0.0.1', '1.2.3.4.5', '1.2.3.256', 'a.1', 'a.0x', 'a.0x7f', '127.1.', '0']) {
    t.match(registrationHostProblem(host), /usual form/, host)
  }
  for (const host of ['a1', 'host.1a', '0xg', 'agent-1', '1.example']) t.equal(registrationHostProblem(host), undefined, host)
})

t.test('names of metadata services are refused', async t => {
  for (const host of ['metadata.google.internal', 'Metadata.Google.Internal.', 'metadata', 'metadata.goog', 'instance-data', 'instance-data.eu-west-1.compute.internal', 'metadata.tencentyun.com', 'rancher-metadata']) t.match(registrationHostProblem(host), /metadata/, host)
})

t.test('names that only resemble those of metadata services are names', async t => {
  for (const host of ['my-metadata', 'metadata.example', 'instance-data-2', 'metadata-service']) t.equal(registrationHostProblem(host), undefined, host)
})

t.test('digits of other scripts, dots of other scripts and encoded ones are no address', async t => {
  for (const host of ['１２７.0.0.1', '①②⑦.0.0.1', '127。0。0。1', '127%2e0%2e0%2e1', 'ⓛocalhost', 'localhost\u200b', 'xn--\u00fc', '%6cocalhost', '127.0.0.1\t', '127.0.0.1#', '[127.0.0.1]']) {
    t.match(registrationHostProblem(host), /^must/, JSON.stringify(host))
  }
  t.equal(registrationHostProblem('xn--bcher-kva.example'), undefined, 'Punycode is a name as any other')
})

t.test('loopback by name and by address', async t => {
  for (const host of ['localhost', 'LocalHost.', 'app.localhost', 'ip6-loopback', 'localhost.localdomain']) t.ok(isLoopbackName(host), host)
  for (const host of ['localhost.example', 'notlocalhost', '127.0.0.1', '']) t.notOk(isLoopbackName(host), host)
  for (const ip of ['127.0.0.1', '127.255.0.1', '::1', '0:0::1']) t.ok(isLoopbackAddress(ip), ip)
  for (const ip of ['128.0.0.1', '::2', '::ffff:127.0.0.1', '127.1', 'localhost']) t.notOk(isLoopbackAddress(ip), ip)
})

t.test('a registration\'s host must be a host at all', async t => {
  t.match(registrationHostProblem('http://a'), /scheme/)
})

t.test('allowedHosts narrows what may be named', async t => {
  const allowedHosts = ['exact.example', '.Internal', '10.0.0.0/8', '192.168.1.1', 'fd00::/8', '2001:db8::1']
  const cases: [string, boolean][] = [
    ['exact.example', true],
    ['EXACT.example.', true],
    ['sub.exact.example', false],
    ['a.internal', true],
    ['a.b.internal', true],
    ['internal', false],
    ['notinternal', false],
    ['a.internal.evil.example', false],
    ['localhost', false],
    ['10.1.2.3', true],
    ['11.1.2.3', false],
    ['192.168.1.1', true],
    ['192.168.1.2', false],
    ['fd12::1', true],
    ['2001:db8:0::1', true],
    ['2001:db8::2', false],
    ['127.0.0.1', false]
  ]
  for (const [host, allowed] of cases) t.equal(registrationHostProblem(host, { allowedHosts }), allowed ? undefined : 'must be among registry.allowedHosts', host)
})

t.test('allowedHosts never allows what is refused anyway', async t => {
  for (const host of ['169.254.169.254', '::ffff:10.0.0.1', '0.0.0.0']) {
    t.match(registrationHostProblem(host, { allowedHosts: ['0.0.0.0/0', '::/0', host] }), /^must not be /, host)
    t.match(resolvedAddressProblem(host, { allowedHosts: ['0.0.0.0/0', '::/0', host] }), /^must not be /, host)
  }
})

t.test('an IPv4 range says nothing about IPv6, and the other way round', async t => {
  t.match(registrationHostProblem('fd00::1', { allowedHosts: ['0.0.0.0/0'] }), /among/)
  t.match(registrationHostProblem('10.0.0.1', { allowedHosts: ['::/0'] }), /among/)
})

t.test('what a name resolves to must be in the ranges of allowedHosts, if there are any', async t => {
  t.equal(resolvedAddressProblem('8.8.8.8', { allowedHosts: ['.internal', 'a.example'] }), undefined)
  t.equal(resolvedAddressProblem('10.1.1.1', { allowedHosts: ['.internal', '10.0.0.0/8'] }), undefined)
  t.match(resolvedAddressProblem('8.8.8.8', { allowedHosts: ['.internal', '10.0.0.0/8'] }), /among/)
})

t.test('what is no address is refused where an address is expected', async t => {
  for (const text of ['localhost', '', '127.1', 'fe80::1%eth0']) {
    t.ok(isRefusedAddress(text), text)
    t.type(resolvedAddressProblem(text), 'string', text)
  }
})

t.test('ranges are addresses and CIDRs', async t => {
  for (const range of ['10.0.0.1', '10.0.0.0/8', '0.0.0.0/0', '::1', '::/0', 'fd00::/128', '10.0.0.0/32']) t.ok(isAddressRange(range), range)
  for (const range of ['', '10.0.0.0/33', 'fd00::/129', '10.0.0.0/', '10.0.0.0/-1', '10.0.0.0/8/8', '10.0.0.0/1e1', '10.0.0/8', 'loopback', 'fe80::1%eth0', '10.0.0.0/ 8']) t.notOk(isAddressRange(range), range)
})

t.test('an entry of allowedHosts is a name, a suffix, an address or a CIDR', async t => {
  for (const entry of ['localhost', '.internal', 'a.example', '10.0.0.1', '10.0.0.0/8', '::1', 'fd00::/8']) t.equal(allowedHostProblem(entry), undefined, entry)
  for (const entry of ['', '.', '*.internal', '10.0.0.0/40', 'http://a', 'a:80', '..a']) t.match(allowedHostProblem(entry), /must be a/, entry)
})

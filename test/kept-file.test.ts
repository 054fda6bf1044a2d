/** A file of the state folder that can be read, and not be set aside. What else there is of it, test/plugins/registry.test.ts and revocations.test.ts see. */
import * as fs from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyBaseLogger } from 'fastify'
import t from 'tap'
import type * as KeptFileModule from '../src/kept-file.ts'

t.test('a damaged file that can not be set aside is a warning, and is never written over', async t => {
  const path = join(t.testdir({ 'kept.json': '{' }), 'kept.json')
  const { createKeptFile } = await t.mockImport<typeof KeptFileModule>('../src/kept-file.ts', {
    'node:fs/promises': {
      ...fs,
      rename: async () => { throw new Error('EPERM: not permitted') }
    }
  })
  const warnings: string[] = []
  const log = { warn: (text: string) => warnings.push(text) } as unknown as FastifyBaseLogger
  const file = createKeptFile(path, { log, what: 'Registrations', without: 'the fleet starts without its registrations' })

  t.equal(await file.load(text => JSON.parse(text) as unknown), undefined)

  t.match(warnings, [/kept\.json is damaged .* and can't be set aside \(EPERM: not permitted\); the fleet starts without its registrations, and new ones can't be kept until that is put right and the gateway restarts$/])
  await t.rejects(file.save(() => ({})), { message: /^Registrations can't be kept: .* is damaged/ })
  await file.idle()
  t.equal(await fs.readFile(path, 'utf8'), '{')
})

// The volunteer decides: pause, resume, reload, stop, forget.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'

import { Relay, tinyShakespeare, Workshop } from '../lib/programs.mjs'
import { openChromium, Volunteer } from '../lib/volunteer.mjs'
import { until } from '../lib/wait.mjs'

describe('what a volunteer controls', { timeout: 10 * 60_000 }, () => {
  const workshop = new Workshop()
  /** @type {Volunteer} */
  let ana
  const press = (name) => ana.frame.getByTestId(name).click()

  before(async () => {
    const relay = await Relay.start(workshop, { data: tinyShakespeare() })
    ana = await Volunteer.open(await openChromium(workshop), relay.page, 'ana')
    await ana.start()
    await ana.until('accepted contributions', (now) => now.accepted >= 2)
  })
  after(() => workshop.close())

  test('pause leaves the roster and resume joins it again', async () => {
    await press('pause')
    const isMember = (now) => now.roster.some((member) => member.me)
    const paused = await ana.until('off the roster', (now) => now.state === 'paused' && !isMember(now))
    await press('resume')
    await ana.until('more accepted contributions', (now) => now.accepted > paused.accepted && isMember(now))
  })

  test('a reloaded page goes on as the same peer from the same history', async () => {
    const before = await ana.status()
    await ana.page.reload()
    await ana.start()
    const now = await ana.until('accepted contributions after the reload', (now) => now.accepted >= 1)
    assert.equal(now.peer, before.peer)
    assert.ok(now.durable, now.durableWhy)
    assert.ok(now.head >= before.head, `round ${now.head} after round ${before.head}`)
  })

  test('stop while the client loads leaves nothing running, and the next start works', async () => {
    await press('stop')
    await ana.until('stopped', (now) => now.state === 'stopped')
    await ana.page.reload()
    const wasm = /\.wasm$/
    /** @type {import('playwright-core').Route[]} */
    const held = []
    await ana.page.route(wasm, (route) => void held.push(route))
    await ana.start()
    await until('the client is being loaded', () => held.length > 0)
    await press('stop')
    await ana.until('stopped', (now) => now.state === 'stopped')
    await ana.page.unroute(wasm)
    // The page gave the download up, so there may be nobody to let it go on for.
    await Promise.all(held.map((route) => route.continue().catch(() => {})))
    assert.equal(ana.page.workers().length, 0)
    await ana.start()
    await ana.until('an accepted contribution', (now) => now.accepted >= 1)
  })

  test('stop ends everything and forget makes another peer', async () => {
    const { peer } = await ana.status()
    await press('stop')
    await ana.until('stopped', (now) => now.state === 'stopped')
    await ana.frame.locator('[data-testid=start]:focus').waitFor()
    await press('forget')
    await press('forget-cancel')
    assert.equal((await ana.status()).notice, '', 'nothing is deleted before the second click')
    await press('forget')
    await press('forget-confirm')
    await ana.until('everything is deleted', (now) => /is deleted/.test(now.notice))
    await ana.page.reload()
    await ana.start()
    const now = await ana.until('an accepted contribution as somebody else', (now) => now.accepted >= 1)
    assert.notEqual(now.peer, peer)
  })
})

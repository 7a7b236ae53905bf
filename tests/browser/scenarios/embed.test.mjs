// A volunteer on somebody else's page.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'

import { Relay, tinyShakespeare, Workshop } from '../lib/programs.mjs'
import { page, serve } from '../lib/site.mjs'
import { openChromium, Volunteer } from '../lib/volunteer.mjs'
import { until } from '../lib/wait.mjs'

const workshop = new Workshop()
after(() => workshop.close())

test('an embedded volunteer starts on its own click only, and contributes', { timeout: 10 * 60_000 }, async () => {
  const relay = await Relay.start(workshop, { data: tinyShakespeare() })
  const html = `<!doctype html><title>A partner</title><h1>A partner's page</h1>
    <script type="module" src="${relay.url}/embed.js"></script>
    <shoal-volunteer run="${relay.run}"></shoal-volunteer>`
  const site = await serve(workshop, (path) => (path === '/' ? page(html) : undefined))
  const browser = await openChromium(workshop)
  const volunteer = await Volunteer.open(browser, site, 'embedded')
  volunteer.frame = await until('the frame of the relay', () =>
    volunteer.page.frames().find((frame) => frame.url().startsWith(relay.url)),
  )
  /** @type {string[]} */
  const loaded = []
  volunteer.page.on('request', (request) => loaded.push(request.url()))

  await volunteer.frame.getByTestId('start').waitFor()
  await volunteer.page.getByRole('heading').click()
  assert.equal((await volunteer.status()).state, 'stopped')
  assert.ok(!loaded.some((url) => url.endsWith('.wasm')))

  const seen = (verdict) => volunteer.frame.locator(`[data-visible=${verdict}]`).waitFor()
  await volunteer.page.evaluate(() => {
    const cover = document.body.appendChild(document.createElement('div'))
    cover.id = 'cover'
    cover.style.cssText = 'position: fixed; inset: 0; background: white; pointer-events: none'
  })
  await seen('no')
  const opened = volunteer.context.waitForEvent('page')
  await volunteer.start()
  const tab = await opened
  assert.equal((await volunteer.status()).state, 'stopped', 'a click on a covered frame starts nothing')
  // What opens is the full page, isolated and free of the frame's sandbox.
  await tab.getByTestId('start').waitFor()
  assert.ok(await tab.evaluate(() => crossOriginIsolated))
  await tab.close()

  await volunteer.page.evaluate(() => document.getElementById('cover')?.remove())
  await seen('yes')
  await volunteer.start()
  const status = await volunteer.until('certified contributions', (now) => now.accepted >= 2, 400_000)
  assert.ok(status.head >= 2)
  assert.ok(volunteer.page.url().startsWith(site))
})

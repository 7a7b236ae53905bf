// What the page says before anything runs, and when nothing can.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'

import { Relay, Workshop } from '../lib/programs.mjs'
import { openChromium } from '../lib/volunteer.mjs'

describe('the contribute page', { timeout: 5 * 60_000 }, () => {
  const workshop = new Workshop()
  /** @type {Relay} */
  let relay
  /** @type {import('playwright-core').Browser} */
  let browser
  before(async () => {
    relay = await Relay.start(workshop)
    // A name that is not localhost: to the browser, plain HTTP to it is not secure.
    browser = await openChromium(workshop, ['--host-resolver-rules=MAP relay.example 127.0.0.1'])
  })
  after(() => workshop.close())

  test('nothing heavy loads before the click', async () => {
    const page = await browser.newPage()
    /** @type {string[]} */
    const loaded = []
    page.on('request', (request) => loaded.push(new URL(request.url()).pathname))
    await page.goto(relay.page)
    await page.getByTestId('start').waitFor()
    const heavy = loaded.filter((path) => path.endsWith('.wasm') || /^\/api\/(signal|blobs)/.test(path))
    assert.deepEqual(heavy, [])
    await page.close()
  })

  test('what the run is, whose, from what data and under which licence', async () => {
    const { manifest } = await relay.details()
    const page = await browser.newPage()
    await page.goto(relay.page)
    const text = page.locator('main')
    await text.getByText(manifest.name).first().waitFor()
    const [source] = manifest.data.sources
    for (const part of [manifest.host, source.name, source.licence]) {
      assert.ok((await text.innerText()).includes(part), `the page does not say ${part}`)
    }
    await page.close()
  })

  test('a run that is not there', async () => {
    const page = await browser.newPage()
    await page.goto(`${relay.url}/?run=${'0'.repeat(64)}`)
    await page.getByTestId('problem').getByText('not found').first().waitFor()
    await page.close()
  })

  test('a click while the relay is away says so, and is no bug of the client', async () => {
    const away = await Relay.start(workshop)
    const page = await browser.newPage()
    await page.goto(away.page)
    await page.getByTestId('start').waitFor()
    await away.kill()
    await page.getByTestId('start').click()
    await page.getByTestId('problem').getByText('does not answer').first().waitFor()
    await page.close()
  })

  test('a page that is not secure says why it cannot train', async () => {
    const page = await browser.newPage()
    await page.goto(`http://relay.example:${relay.port}/?run=${relay.run}`)
    await page.getByTestId('problem').getByText(/https/i).first().waitFor()
    assert.equal(await page.getByTestId('start').isEnabled(), false)
    await page.close()
  })
})

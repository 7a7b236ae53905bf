// Native volunteers and a browser in one run.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'

import { Relay, tinyShakespeare, Workshop } from '../lib/programs.mjs'
import { compareModels } from '../lib/text.mjs'
import { openChromium, Volunteer } from '../lib/volunteer.mjs'
import { until } from '../lib/wait.mjs'

const workshop = new Workshop()
after(() => workshop.close())

test('two native volunteers and a browser train one model', { timeout: 15 * 60_000 }, async () => {
  const relay = await Relay.start(workshop, { data: tinyShakespeare() })
  const natives = [relay.join(), relay.join()]
  const browser = await openChromium(workshop)
  const volunteer = await Volunteer.open(browser, relay.page, 'ana')
  await volunteer.start()
  const logs = () => natives.map((native) => native.log())
  try {
    const all = await volunteer.until('three who train', (now) => now.roster.filter((member) => member.trains).length >= 3)
    await volunteer.until('accepted contributions', (now) => now.accepted >= 2 && now.head >= all.head + 3, 600_000)
  } catch (error) {
    throw new Error(`${error}\n${logs().join('\n---\n')}`)
  }
  const status = await volunteer.status()
  const { round, model } = await until('the relay has a round that the browser saw', async () => {
    const details = await relay.details()
    return (await volunteer.status()).models[details.round] && details
  })
  compareModels([await volunteer.status(), { models: { [round]: model } }])
  assert.ok(status.roster.some((member) => !member.me && member.trains && member.valid > 0))
  console.log((await relay.verify()).trim())
})

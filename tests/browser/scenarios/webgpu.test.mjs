// A volunteer that trains with WebGPU, on a software adapter where there is no other.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'

import { Relay, tinyShakespeare, Workshop } from '../lib/programs.mjs'
import { openChromium, Volunteer } from '../lib/volunteer.mjs'

const workshop = new Workshop()
after(() => workshop.close())

test('what WebGPU trained is accepted and lowers the held-out loss', { timeout: 10 * 60_000 }, async () => {
  // A software adapter takes long for a step; few steps make a round.
  const relay = await Relay.start(workshop, { data: tinyShakespeare(), args: ['--local-steps', '4'] })
  const browser = await openChromium(workshop)
  const volunteer = await Volunteer.open(browser, `${relay.page}&engine=gpu`, 'ana')
  await volunteer.start()
  const status = await volunteer.until('accepted contributions', (now) => now.accepted >= 3, 500_000)
  assert.equal(status.engine, 'gpu')
  console.log(status.engineName)
  // Rounds that pass while another is being measured are not measured, not even the first.
  const measured = (now) => Object.keys(now.heldOut).map(Number).sort((a, b) => a - b)
  const apart = (rounds) => rounds.length > 1 && rounds.at(-1) >= rounds[0] + 3
  const { heldOut } = await volunteer.until('losses of rounds well apart', (now) => apart(measured(now)), 500_000)
  const rounds = measured({ heldOut })
  const [first, last] = [heldOut[rounds[0]], heldOut[rounds.at(-1)]]
  assert.ok(last < first, `${last} after round ${rounds.at(-1)}, ${first} after round ${rounds[0]}`)
})

test('a lost GPU is opened anew, and at last the CPU takes over', { timeout: 10 * 60_000 }, async () => {
  const relay = await Relay.start(workshop, { data: tinyShakespeare(), args: ['--local-steps', '4'] })
  const browser = await openChromium(workshop)
  const volunteer = await Volunteer.open(browser, `${relay.page}&engine=gpu`, 'ana')
  await volunteer.start()
  const devtools = await browser.newBrowserCDPSession()
  const losses = () => volunteer.console.filter((line) => line.includes('the GPU failed')).length
  const engines = []
  while (engines.at(-1) !== 'cpu') {
    const before = await volunteer.until('training', (now) => now.phase === 'training' && now.step > 0)
    const known = losses()
    await devtools.send('Browser.crashGpuProcess')
    await volunteer.until('the loss is noticed', () => losses() > known)
    const now = await volunteer.until('contributions after it', (now) => now.accepted >= before.accepted + 2, 300_000)
    engines.push(now.engine)
  }
  // Each time training resumes where it was, until the browser, which sees its GPU process crash again and again, refuses
  // WebGPU.
  assert.equal(engines[0], 'gpu')
  assert.ok(engines.length <= 3, engines.join(', '))
})

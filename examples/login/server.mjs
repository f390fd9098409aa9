// A login in Node (18 or newer, no packages): the application gives its users tokens, and publishes to their topics.
//
//     node examples/login/server.mjs
//
// In an application of your own, a library makes the tokens: jose, or jsonwebtoken.

import { createHmac, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'

const hub = process.env.HUB ?? 'http://127.0.0.1:6455'
const port = Number(process.env.PORT ?? 8000)
const secret = process.env.SECRET ?? 'at least thirty-two bytes of secret'
const users = { alice: 'wonderland', bob: 'builder' }
const page = readFileSync(new URL('page.html', import.meta.url))

const encode = value => Buffer.from(value).toString('base64url')
const sign = text => createHmac('sha256', secret).update(text).digest('base64url')

// Returns a token (RFC 7519) with these claims, which is valid for ten minutes.
function tokenOf(claims) {
  const header = encode(JSON.stringify({ alg: 'HS256', typ: 'JWT' }))
  const payload = encode(JSON.stringify({ ...claims, exp: Math.floor(Date.now() / 1000) + 600 }))
  return `${header}.${payload}.${sign(`${header}.${payload}`)}`
}

// Returns the user of a token of this application, or undefined.
function userOf(token = '') {
  const [header, payload, signature = ''] = token.split('.')
  const expected = Buffer.from(sign(`${header}.${payload}`))
  const given = Buffer.from(signature)
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return undefined
  const { sub, exp } = JSON.parse(Buffer.from(payload, 'base64url'))
  return exp > Date.now() / 1000 ? sub : undefined
}

async function publish(topic, message) {
  const token = tokenOf({ sub: 'application', publish: ['orders/*'] })
  const answer = await fetch(`${hub}/t/${topic}`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
    body: JSON.stringify(message),
  })
  if (!answer.ok) throw new Error(`the hub answers ${answer.status}: ${await answer.text()}`)
}

async function bodyOf(request) {
  let text = ''
  for await (const part of request) if ((text += part).length > 10_000) throw new Error('the body is too large')
  return JSON.parse(text)
}

const routes = {
  'GET /': async () => [200, page, 'text/html'],
  'POST /login': async request => {
    const { user, password } = await bodyOf(request)
    if (!Object.hasOwn(users, user) || users[user] !== password) return [401, '{}']
    const topic = `orders/${user}`
    const token = tokenOf({ sub: user, subscribe: [topic] })
    return [200, JSON.stringify({ hub: hub.replace(/^http/, 'ws'), topic, token })]
  },
  'POST /pay': async request => {
    const user = userOf(request.headers.authorization?.replace(/^Bearer /, ''))
    if (!user) return [401, '{}']
    await publish(`orders/${user}`, { state: 'paid', by: user })
    return [202, '{}']
  },
}

createServer(async (request, response) => {
  const route = routes[`${request.method} ${request.url}`] ?? (async () => [404, '{}'])
  const [status, body, type = 'application/json'] = await route(request).catch(error => {
    console.error(error.message)
    return [500, '{}']
  })
  response.writeHead(status, { 'Content-Type': `${type}; charset=utf-8` }).end(body)
}).listen(port, '127.0.0.1', () => console.log(`http://127.0.0.1:${port}`))

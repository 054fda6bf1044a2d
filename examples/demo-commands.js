/** The commands that the demo prints, each with a test of what it should print; examples/demo.js shows or runs them. */

/**
 * @param url the gateway's origin
 * @param secret the token that opens it
 * @param hasHistory whether git-agent has a repository to read
 * @param sparePort an encoder that can be registered under another name
 * @param clientFile path of chat-client.js from where the commands are run
 * @returns in the order of a walk through: {title, command, isGood(...outputs), runs?}
 */
export function demoCommands ({ url, secret, hasHistory, sparePort, clientFile }) {
  const token = `-H 'Authorization: Bearer ${secret}'`
  const json = "-H 'Content-Type: application/json'"
  const registration = JSON.stringify({ name: 'spare-agent', host: '127.0.0.1', port: sparePort, aliases: ['spare'], ttl: 600 })

  return [
    {
      title: 'encode a word; once more, and the other instance answers',
      command: `curl -s ${token} '${url}/api/encoder/encode?text=hello'`,
      runs: 2,
      isGood: (first, second) => read(first)?.base64 === 'aGVsbG8=' && read(second)?.base64 === 'aGVsbG8=' && read(first).instance !== read(second).instance
    },
    {
      title: 'the same with a body',
      command: `curl -s ${token} ${json} -d '{"text": "hello"}' ${url}/api/trail-agent/encode`,
      isGood: output => read(output)?.rot13 === 'uryyb'
    },
    ...hasHistory
      ? [{
          title: 'the last commits of this repository',
          command: `curl -s ${token} '${url}/api/git/log?n=3'`,
          isGood: output => output.includes('"sha"')
        }]
      : [],
    {
      title: 'server-sent events, each as it happens (without count they never end)',
      command: `curl -sN ${token} '${url}/api/clock/events?count=3'`,
      isGood: output => output.match(/^event: tick$/gm)?.length === 3
    },
    {
      title: 'a chat over a WebSocket (without the words it reads lines from you)',
      command: `node ${clientFile} ${url.replace('http', 'ws')}/api/chat/ws '${secret}' 'hello, room'`,
      isGood: output => output.includes('hello, room')
    },
    {
      title: 'without a token: 401, and why',
      command: `curl -s '${url}/api/encoder/encode?text=hello'`,
      isGood: output => read(output)?.code === 'FLEET_UNAUTHENTICATED'
    },
    {
      title: 'how the fleet is (anybody may ask)',
      command: `curl -s ${url}/health`,
      isGood: output => read(output)?.status === 'healthy'
    },
    {
      title: 'who there is',
      command: `curl -s ${token} ${url}/agents`,
      isGood: output => read(output)?.['trail-agent']?.instances?.length === 2
    },
    {
      title: 'what was asked of it so far',
      command: `curl -s ${token} ${url}/stats`,
      isGood: output => read(output)?.total_proxied > 0
    },
    {
      title: 'register one more agent, for ten minutes',
      command: `curl -s ${token} ${json} -d '${registration}' ${url}/registry/register`,
      isGood: output => read(output)?.message === 'registered spare-agent'
    },
    {
      title: 'use it',
      command: `curl -s ${token} '${url}/api/spare/encode?text=hello'`,
      isGood: output => read(output)?.instance === sparePort
    },
    {
      title: 'and let it go',
      command: `curl -s ${token} -X DELETE ${url}/registry/spare-agent`,
      isGood: output => read(output)?.message?.startsWith('deregistered spare-agent') === true
    }
  ]
}

function read (output) {
  try {
    return JSON.parse(output)
  } catch {
    return undefined
  }
}

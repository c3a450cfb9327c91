// What the official client for Node sees at an address: everything but ids and times, as one JSON object on stdout.
import { createRequire } from 'node:module';
const OpenAI = createRequire(process.argv[3] + '/')('openai').default;

const client = new OpenAI({ baseURL: process.argv[2] + '/v1', apiKey: 'sk-any', maxRetries: 0 });
const ask = { model: 'sql-tiny', messages: [{ role: 'user', content: 'How many customers are there?' }], temperature: 0 };
const plain = ({ id, created, _request_id, ...rest }) => rest;
const seen = {};
seen.chat = plain(await client.chat.completions.create(ask));
seen.chunks = [];
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) seen.chunks.push(plain(chunk));
const text = seen.chunks.map((c) => c.choices[0]?.delta?.content ?? '').join('');
if (text !== seen.chat.choices[0].message.content) throw new Error(text);
try {
  await client.chat.completions.create({ ...ask, model: 'gpt-9' });
} catch (error) {
  seen.error = [error.constructor.name, error.status, error.code];
}
const stopped = new AbortController();
for await (const _ of await client.chat.completions.create({ ...ask, stream: true }, { signal: stopped.signal })) {
  stopped.abort();
  break;
}
seen.after = plain(await client.chat.completions.create(ask)).choices[0].message.content === text;
console.log(JSON.stringify(seen));

# What the official Python client sees at an address: everything but ids and times, as one JSON object on stdout.
import asyncio, json, sys, openai

base, key = sys.argv[1], "sk-any"
client = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)
ask = dict(model="sql-tiny", messages=[{"role": "user", "content": "How many customers are there?"}], temperature=0)
seen = {}


def plain(answer):
    value = answer.model_dump()
    for name in ("id", "created"):
        value.pop(name, None)
    return value


seen["chat"] = plain(client.chat.completions.create(**ask))
seen["many"] = plain(client.chat.completions.create(**{**ask, "temperature": 0.9}, n=3, seed=7, logprobs=True, top_logprobs=2))
seen["stop"] = plain(client.chat.completions.create(**ask, stop=["FROM"]))
seen["tools"] = plain(client.chat.completions.create(**ask, tools=[{"type": "function", "function": {"name": "sql", "parameters": {}}}]))
seen["completion"] = plain(client.completions.create(model="sql-tiny", prompt="SELECT", max_tokens=8, temperature=0, logprobs=1))
chunks = [plain(c) for c in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})]
seen["chunks"] = chunks
text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
assert text == seen["chat"]["choices"][0]["message"]["content"], (text, seen["chat"])
assert chunks[-1]["usage"] == seen["chat"]["usage"], chunks[-1]
two = [plain(c) for c in client.chat.completions.create(**{**ask, "temperature": 0.9}, n=2, seed=7, stream=True)]
seen["two"] = sorted(json.dumps(c, sort_keys=True) for c in two)
seen["models"] = sorted(m.id for m in client.models.list())
raw = client.chat.completions.with_raw_response.create(**ask)
seen["has_id"] = bool(raw.headers.get("x-request-id"))
seen["errors"] = []
for wrong in ({"model": "gpt-9"}, {"temperature": 7}, {"messages": []}):
    try:
        client.chat.completions.create(**{**ask, **wrong})
    except openai.APIStatusError as error:
        seen["errors"].append([type(error).__name__, error.status_code, error.body])
# A stream that is left half way must not spoil the client or the server.
stream = client.chat.completions.create(**ask, stream=True)
next(iter(stream))
stream.close()
seen["after"] = plain(client.chat.completions.create(**ask)) == seen["chat"]


async def many():
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0) as client:
        return await asyncio.gather(*(client.chat.completions.create(**ask) for _ in range(8)))


seen["at_once"] = all(plain(a) == seen["chat"] for a in asyncio.run(many()))
print(json.dumps(seen, sort_keys=True))

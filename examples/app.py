"""An app of yours, as docker-compose.yml runs it: the official OpenAI client, with its base URL at the sidecar.

    OPENAI_BASE_URL=http://localhost:8080/v1 python examples/app.py [QUESTIONS]

It asks in streams, shows who answered, and tells the sidecar what it thought of each answer: thumbs that come back as rewards.
"""

import itertools
import json
import os
import sys
import time
import urllib.request

from openai import OpenAI

CITIES = ["Lisbon", "Porto", "Berlin", "Hamburg", "Vienna", "Graz", "Madrid", "Oslo"]
QUESTIONS = [f"How many customers live in {city}?" for city in CITIES] + [
    f"How many orders did customers from {city} place?" for city in CITIES
]


def feedback(base_url, request_id, good):
    """What a user would click on."""
    body = {"request_id": request_id, "thumb": "up" if good else "down", "user": "app"}
    request = urllib.request.Request(
        f"{base_url}/feedback", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["feedback_id"]


def main():
    base_url = os.environ.get("OPENAI_BASE_URL", "http://localhost:8080/v1")
    model = os.environ.get("MODEL", "sql-tiny")
    pause = float(os.environ.get("PAUSE_SECONDS", "1"))
    count = int(sys.argv[1]) if len(sys.argv) > 1 else None
    client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=10)
    for question in itertools.islice(itertools.cycle(QUESTIONS), count):
        messages = [{"role": "user", "content": question}]
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=messages, stream=True, temperature=0, user="app"
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse() if chunk.choices)
        request_id, version = raw.headers["x-request-id"], raw.headers.get("x-model-version", "the base")
        city = question.split(" in ")[-1].split(" from ")[-1].split()[0].rstrip("?")
        good = text.startswith("SELECT") and city in text
        feedback(base_url, request_id, good)
        print(json.dumps({"question": question, "answer": text, "by": version, "thumb": good, "id": request_id}), flush=True)
        time.sleep(pause)


if __name__ == "__main__":
    main()

"""What locust runs, in its own environment: users who stream answers and hold each against what it must be.

SIPO_LOAD names a JSON file of bodies and texts: [{"body": .., "text": ..}, ..]. Every end of a request has a name in
the statistics; only those that must never be are failures.
"""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import requests
from locust import HttpUser, events, task

ASKED = json.loads(Path(os.environ["SIPO_LOAD"]).read_text())
AWAY = 0.1
"""The share of streams that their client leaves after the first piece."""


class Streamer(HttpUser):
    @task
    def stream(self) -> None:
        asked, began = random.choice(ASKED), time.perf_counter()
        end, wrong = self._asked(asked["body"], asked["text"])
        taken = 1000 * (time.perf_counter() - began)
        events.request.fire(
            request_type="POST", name=end, response_time=taken, response_length=0, exception=wrong, context={}
        )

    def _asked(self, body: dict[str, Any], text: str) -> tuple[str, Exception | None]:
        """How it ended, and what is wrong with that."""
        try:
            answer = requests.post(f"{self.host}/v1/chat/completions", json=body, stream=True, timeout=60)
        except requests.ConnectionError:
            time.sleep(0.2)
            return "nobody there", None
        with answer:
            if answer.status_code in (429, 503):
                later = int(answer.headers.get("Retry-After", 0))
                time.sleep(0.2)
                return str(answer.status_code), None if 1 <= later <= 60 else ValueError("no Retry-After")
            if answer.status_code != 200:
                return str(answer.status_code), ValueError(answer.text[:200])
            try:
                return self._heard(answer, text)
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                return "cut", None

    def _heard(self, answer: requests.Response, text: str) -> tuple[str, Exception | None]:
        heard, leaves = "", random.random() < AWAY
        for line in answer.iter_lines():
            if line == b"data: [DONE]":
                return "answered", None if heard == text else ValueError(f"{heard!r} in place of {text!r}")
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                told = event["error"]
                return f"error in a stream: {told['code']}", None if told["code"] == "stopping" else ValueError(
                    str(told)
                )
            heard += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            if heard and leaves:
                return "left", None
        return "lost", ValueError("a stream ended without an end")

"""The exported file, served by llama.cpp on loopback inside this process."""

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import xllamacpp


class Served:
    """A llama.cpp server with one model, and its HTTP client."""

    def __init__(self, file: Path) -> None:
        options = xllamacpp.CommonParams()
        options.model.path = str(file)
        options.n_ctx = 512
        options.n_parallel = 1
        options.cpuparams.n_threads = 1
        options.cache_ram_mib = 0
        options.verbosity = 1
        self._server = xllamacpp.Server(options)

    def complete(self, prompt: str, **options: object) -> tuple[str, bool]:
        """Return the text after `prompt`, greedy by default, and whether it ended by itself."""
        body = {"prompt": prompt, "n_predict": 200, "temperature": 0, "cache_prompt": False}
        answer = self._post("/completion", body | options)
        return answer["content"], answer["stop_type"] == "eos"

    def chat(self, prompt: str) -> str:
        """The greedy answer to one user message."""
        message = {"role": "user", "content": prompt}
        body = {"messages": [message], "max_tokens": 200, "temperature": 0}
        answer = self._post("/v1/chat/completions", body)
        text: str = answer["choices"][0]["message"]["content"]
        return text

    def tokenize(self, text: str) -> list[int]:
        """The token identifiers of `text`, without BOS."""
        tokens: list[int] = self._post("/tokenize", {"content": text})["tokens"]
        return tokens

    def _post(self, path: str, body: dict[str, object]) -> Any:
        headers = {"Content-Type": "application/json"}
        url = self._server.listening_address + path
        with urlopen(Request(url, json.dumps(body).encode(), headers)) as response:
            return json.load(response)

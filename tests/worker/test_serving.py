"""A worker that serves the story model: its answers and its end."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from inference_service.engines import kinds
from inference_service.engines.llamacpp.section import LlamacppNeeds

from .conftest import STORY, Start, Worker

PROMPT = {"prompt": "Once upon a time", "n_predict": 40, "temperature": 0, "stream": True}
# Fills the story model's context; many such requests keep the worker busy for seconds.
LONG = {**PROMPT, "n_predict": 480, "ignore_eos": True}


async def read(response: aiohttp.ClientResponse) -> list[dict[str, object]]:
    return [json.loads(line[6:]) async for line in response.content if line.startswith(b"data: ")]


async def test_a_text(start: Start, http: aiohttp.ClientSession) -> None:
    worker = await start()
    async with http.post(f"{await worker.url()}/completion", json=PROMPT) as response:
        assert response.status == 200
        events = await read(response)
    text = "".join(str(event["content"]) for event in events)
    assert len(text.split()) > 5
    assert events[-1]["stop"] is True
    assert [event["event"] for event in worker.events] == ["loading", "serving"]


async def test_health_answers_after_the_serving_event(
    start: Start, http: aiohttp.ClientSession
) -> None:
    worker = await start()
    async with http.get(f"{await worker.url()}/health") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})


async def test_no_web_page_may_read_the_api(start: Start, http: aiohttp.ClientSession) -> None:
    url = await (await start()).url()
    origin = {"Origin": "http://elsewhere.example"}
    async with http.get(f"{url}/health", headers=origin) as response:
        assert response.headers.get("Access-Control-Allow-Origin", "") == ""
    async with http.get(f"{url}/slots") as response:
        assert response.status == 501
    async with http.get(f"{url}/") as response:
        assert response.status == 404


@asynccontextmanager
async def many(url: str, count: int) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Open so many requests at once, each for a long text."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def generate() -> None:
            async with session.post(f"{url}/completion", json=LONG) as response:
                await read(response)

        clients = [asyncio.create_task(generate()) for _ in range(count)]
        await session.get(f"{url}/health")
        yield clients
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def test_health_answers_beside_many_clients(
    start: Start, http: aiohttp.ClientSession
) -> None:
    url = await (await start(LLAMACPP_SLOTS="2")).url()
    async with many(url, 40) as clients:
        done, _ = await asyncio.wait(clients, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert done, "none of 40 clients had its text in 60 s"
        async with http.get(f"{url}/health") as response:
            assert response.status == 200
        assert sum(client.done() for client in clients) < 20


@pytest.mark.parametrize(
    ("wanted", "given"), [("1", 64), ("100", 100), ("512", 512), ("1000000000", 512)]
)
async def test_context_is_brought_into_bounds(
    start: Start, http: aiohttp.ClientSession, wanted: str, given: int
) -> None:
    worker = await start(LLAMACPP_CONTEXT=wanted, LLAMACPP_SLOTS="3")
    url = await worker.url()
    assert worker.events[0]["context"] == given
    async with http.get(f"{url}/props") as response:
        properties = await response.json()
    # llama.cpp pads what a slot gets to a multiple of 256 tokens.
    assert given <= properties["default_generation_settings"]["n_ctx"] < given + 256
    assert properties["total_slots"] == 3


async def test_the_chat_template_can_be_replaced(start: Start, http: aiohttp.ClientSession) -> None:
    worker = await start(LLAMACPP_CHAT_TEMPLATE="Hear: {{ messages[0].content }}")
    body = {"messages": [{"role": "user", "content": "hello"}]}
    async with http.post(f"{await worker.url()}/apply-template", json=body) as response:
        assert (await response.json())["prompt"] == "Hear: hello"


async def test_a_worker_tells_whether_its_model_has_a_chat_template(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path, story: bytes
) -> None:
    key = b"tokenizer.chat_template"
    without = tmp_path / "without.gguf"
    without.write_bytes(story.replace(key, b"tokenizer.chat_templatX"))
    template = "{{ messages[0].content }}"
    told = [
        (await (await start(**changes)).until("serving"))["chat_template"]
        for changes in (
            {},
            {"LLAMACPP_FILE": str(without)},
            {"LLAMACPP_FILE": str(without), "LLAMACPP_CHAT_TEMPLATE": template},
        )
    ]
    assert told == [True, False, True]


SHOWS_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}"
SHOWS_CALLS = """{% for each in messages %}{{ each.content }}{% for call in each.tool_calls or [] %}
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
{% endfor %}{% endfor %}"""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, False),
        ({"LLAMACPP_CHAT_TEMPLATE": "chatml"}, False),
        ({"LLAMACPP_CHAT_TEMPLATE": "{# tools #}{{ messages[0].content }}"}, False),
        ({"LLAMACPP_CHAT_TEMPLATE": SHOWS_TOOLS}, True),
        ({"LLAMACPP_CHAT_TEMPLATE": SHOWS_CALLS}, True),
        ({"LLAMACPP_CHAT_TEMPLATE": SHOWS_TOOLS, "LLAMACPP_API_KEY": "secret"}, True),
        ({"LLAMACPP_SERVES": "embeddings", "LLAMACPP_POOLING": "mean"}, None),
    ],
)
async def test_a_worker_tells_whether_its_model_takes_tools(
    start: Start, changes: dict[str, str], told: bool | None
) -> None:
    assert (await (await start(**changes)).until("serving"))["takes_tools"] is told


async def test_tools_are_dropped_where_a_worker_says_so(
    start: Start, http: aiohttp.ClientSession
) -> None:
    """The reason why they are refused; if this fails, llama.cpp has a way of its own for them."""
    tool = {"type": "function", "function": {"name": "count_legs", "parameters": {}}}
    body = {
        "messages": [{"role": "user", "content": "Tell a story."}],
        "max_tokens": 200,
        "temperature": 0,
    }
    url = await (await start()).url()
    prompts, texts = [], []
    for more in ({}, {"tools": [tool], "tool_choice": "required"}):
        async with http.post(f"{url}/apply-template", json=body | more) as response:
            prompts.append((await response.json())["prompt"])
        async with http.post(f"{url}/v1/chat/completions", json=body | more) as response:
            texts.append((await response.json())["choices"][0]["message"])
    assert prompts[0] == prompts[1]
    assert texts[0] == texts[1]
    assert "tool_calls" not in texts[1]


async def test_the_template_of_the_built_in_mistral(
    start: Start, http: aiohttp.ClientSession
) -> None:
    needs = kinds.catalog().find("mistral-7b").needs(LlamacppNeeds)
    assert needs.chat_template is not None
    worker = await start(LLAMACPP_CHAT_TEMPLATE=needs.chat_template)
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": role[0]} for role in roles]
    url = f"{await worker.url()}/apply-template"
    async with http.post(url, json={"messages": messages}) as response:
        prompt = (await response.json())["prompt"]
    assert prompt == "[INST] u [/INST]a<|eos|>[INST] u [/INST]"  # <|bos|> is added to the tokens


@pytest.mark.parametrize("name", ["llama2", "nothing"])
async def test_another_name_than_chatml_is_no_chat_template(start: Start, name: str) -> None:
    failed = await (await start(LLAMACPP_CHAT_TEMPLATE=name)).until("failed")
    assert failed["reason"] == "CONFIGURATION"


async def test_an_idle_worker_stops_at_once(start: Start) -> None:
    worker = await start()
    await worker.url()
    began = time.monotonic()
    worker.process.terminate()
    assert await worker.exit() == 0
    assert time.monotonic() - began < 1  # 0.02 s; the machine may be busy


async def test_a_stop_lets_a_stream_end(start: Start, http: aiohttp.ClientSession) -> None:
    worker = await start()
    async with http.post(f"{await worker.url()}/completion", json=LONG) as response:
        await response.content.readline()
        worker.process.terminate()
        events = await read(response)
    assert events[-1]["stop"] is True
    assert await worker.exit() == 0


async def test_a_stop_cuts_streams_after_five_seconds(start: Start) -> None:
    worker = await start(LLAMACPP_SLOTS="16")
    async with many(await worker.url(), 90):
        began = time.monotonic()
        worker.process.terminate()
        assert await worker.exit() == 0
        assert time.monotonic() - began < 10  # on a busy machine


async def test_a_stop_during_the_load(start: Start) -> None:
    worker = await start()
    await worker.until("loading")
    worker.process.terminate()
    assert await worker.exit() in (0, -signal.SIGTERM)


@pytest.mark.parametrize("when", ["loading", "serving"])
async def test_a_worker_ends_with_its_parent(start: Start, when: str) -> None:
    worker = await start(LLAMACPP_EXIT_WITH_PARENT="1")
    await worker.until(when)
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    code = await worker.exit()
    assert code == 0 or (when == "loading" and code == -signal.SIGIO)


async def test_a_worker_ends_at_once_if_its_parent_has_gone(start: Start) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "inference_service.worker",
        env={"LLAMACPP_FILE": str(STORY), "LLAMACPP_EXIT_WITH_PARENT": "1"},
        stdin=subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert await Worker(process).exit() == 0


async def test_by_default_a_worker_outlives_its_standard_input(
    start: Start, http: aiohttp.ClientSession
) -> None:
    worker = await start()
    url = await worker.url()
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    await worker.process.stdin.wait_closed()
    async with http.get(f"{url}/health") as response:
        assert response.status == 200


async def test_a_local_file_needs_no_hub_library(start: Start) -> None:
    worker = await start()
    await worker.url()
    assert "xllamacpp" in worker.libraries()
    assert "_ssl" not in worker.libraries()  # huggingface_hub would have loaded it


async def test_the_next_port_is_taken_where_another_program_has_the_first(
    start: Start, http: aiohttp.ClientSession
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = f"{port - 20}-{port}"
        worker = await start(LLAMACPP_PORT=str(port), LLAMACPP_PORTS=ports)
        serving = await worker.until("serving")
        assert port - 20 <= serving["port"] < port
        async with http.get(f"http://127.0.0.1:{serving['port']}/health") as response:
            assert response.status == 200
    assert [event["event"] for event in worker.events] == ["loading", "serving"]


async def test_a_key(start: Start, http: aiohttp.ClientSession) -> None:
    url = await (await start(LLAMACPP_API_KEY="k" * 32)).url()
    statuses = {}
    for key in ("", "k" * 31, "k" * 32):
        headers = {"authorization": f"Bearer {key}"}
        async with http.post(f"{url}/completion", json=PROMPT, headers=headers) as response:
            statuses[key] = response.status
    assert list(statuses.values()) == [401, 401, 200]
    async with http.get(f"{url}/health") as response:
        assert response.status == 200


async def test_heads_that_do_not_end_hold_no_thread_for_long(
    start: Start, http: aiohttp.ClientSession
) -> None:
    worker = await start(LLAMACPP_SLOTS="1")
    url = await worker.url()
    host, _, port = url.removeprefix("http://").partition(":")
    async with AsyncExitStack() as stack:
        for _ in range(60):  # more than there are threads
            client = socket.create_connection((host, int(port)))
            stack.callback(client.close)
            client.sendall(b"POST /completion HTTP/1.1\r\nContent-Len")
        async with asyncio.timeout(30), http.get(f"{url}/health") as response:
            assert response.status == 200

"""What pages in a real browser can do, and what they cannot."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.field.browser import Page, browsing, site
from tests.service import Serving, free_ports, serving
from tests.waiting import SLOWLY, within

pytestmark = pytest.mark.slow

GENERATE = """{method: "POST", headers: {"content-type": "application/json"}, body:
    JSON.stringify({model_id: "story-mini", prompt: "Once", max_new_tokens: 3})}"""


@dataclass
class Scene:
    """A service, a browser, and the port of a site whose pages are somebody's."""

    service: Serving
    page: Page
    site: int

    @property
    def port(self) -> int:
        return int(str(self.service.service.rest_url).rpartition(":")[2])

    async def runs(self) -> bool:
        """Return whether `story-mini` runs."""
        models = (await self.service.http.get("/models")).json()["models"]
        return any(model["running"] for model in models if model["id"] == "story-mini")


@asynccontextmanager
async def scene(allowed_host: list[str] | None = None) -> AsyncGenerator[Scene]:
    """Run all three; pages of `app.test` may call the service."""
    async with (
        site() as port,
        serving(
            ports=free_ports(4),
            cors_origin=[f"http://app.test:{port}"],
            allowed_host=allowed_host or [],
        ) as service,
        browsing() as page,
    ):
        yield Scene(service, page, port)


HOSTS = [
    pytest.param("127.0.0.1", [], id="an address"),
    pytest.param("lo.evil.test", [], id="a name of 127.0.0.1"),
    pytest.param("lo.evil.test", ["lo.evil.test"], id="a name that the operator allows"),
]


@pytest.mark.parametrize(("host", "allowed"), HOSTS)
async def test_a_page_of_another_origin_stops_nothing_by_fetch(
    host: str, allowed: list[str]
) -> None:
    async with scene(allowed) as it:
        started = await it.service.http.post("/models/story-mini/start")
        assert started.status_code == 200
        await it.page.open(f"http://evil.test:{it.site}/")
        url = f"http://{host}:{it.port}/models/story-mini/stop"

        sent = await it.page.run(
            f"return (await fetch('{url}', {{method: 'POST', mode: 'no-cors'}})).type"
        )
        assert sent == "opaque"  # the request was sent, and the page sees nothing of the answer
        assert await it.page.run(f"await fetch('{url}', {{method: 'POST'}})") == (
            "TypeError: Failed to fetch"
        )
        assert await it.runs()


@pytest.mark.parametrize(("host", "allowed"), HOSTS)
async def test_a_page_of_another_origin_starts_nothing_by_a_form(
    host: str, allowed: list[str]
) -> None:
    async with scene(allowed) as it:
        await it.page.open(f"http://evil.test:{it.site}/")

        await it.page.run(f"""
            const form = document.createElement("form");
            form.method = "POST";
            form.action = "http://{host}:{it.port}/models/story-mini/start";
            document.body.append(form);
            form.submit();
        """)
        shown = ""
        async with within(SLOWLY, "the answer to the form was not shown"):
            while "detail" not in shown:
                shown = str(await it.page.run("return document.body.innerText"))

        refusal = "may not call this API" if allowed or host == "127.0.0.1" else "--allowed-host"
        assert refusal in shown
        assert not await it.runs()


async def test_a_page_of_another_origin_reads_nothing() -> None:
    async with scene() as it:
        await it.page.open(f"http://evil.test:{it.site}/")
        url = f"http://127.0.0.1:{it.port}/models"

        assert await it.page.run(f"await fetch('{url}')") == "TypeError: Failed to fetch"
        assert await it.page.run(LISTEN % f"{url}:watch") == "refused"


async def test_a_page_that_rebinds_its_name_reads_and_starts_nothing() -> None:
    """To the browser, the service is then a part of the page's own site."""
    async with scene() as it:
        await it.page.open(f"http://evil.test:{it.port}/healthz")

        for request in ("'/models'", f"'/generate', {GENERATE}"):
            answer = await it.page.run(
                f"const r = await fetch({request}); return [r.status, await r.text()]"
            )
            assert answer[0] == 421
            assert "--allowed-host evil.test" in answer[1]
        assert not await it.runs()


async def test_a_file_starts_nothing(tmp_path: Path) -> None:
    """Its origin is null, as that of a frame which any page puts into a sandbox."""
    file = tmp_path / "page.html"
    file.write_text("<title>page</title>")
    async with scene() as it:
        await it.page.open(file.as_uri())
        await it.page.run(
            f"await fetch('http://127.0.0.1:{it.port}/models/story-mini/start', "
            "{method: 'POST', mode: 'no-cors'})"
        )

        assert not await it.runs()


LISTEN = """
    const source = new EventSource("%s");
    return await new Promise(resolve => {
        source.addEventListener("snapshot_done", () => resolve("snapshot_done"));
        source.onerror = () => resolve(source.readyState == 2 ? "refused" : "cut");
    });
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_page_of_an_allowed_origin_generates_streams_and_listens(host: str) -> None:
    async with scene() as it:
        await it.page.open(f"http://app.test:{it.site}/")
        url = f"http://{host}:{it.port}"

        made = await it.page.run(f"return await (await fetch('{url}/generate', {GENERATE})).json()")
        assert made["generated_text"].startswith("Once")

        events = await it.page.run(f"""
            const answer = await fetch("{url}/generate_stream", {GENERATE});
            const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
            let text = "";
            for (;;) {{
                const {{done, value}} = await reader.read();
                if (done) return text;
                text += value;
            }}
        """)
        assert "event: chunk" in events
        assert "event: summary" in events

        assert await it.page.run(LISTEN % f"{url}/models:watch") == "snapshot_done"

        stop = f"fetch('{url}/models/story-mini/stop', {{method: 'POST'}})"
        assert await it.page.run(f"return (await {stop}).status") == 200
        assert not await it.runs()


async def test_a_page_of_an_allowed_origin_reads_errors_and_sends_its_key() -> None:
    async with scene() as it:
        await it.page.open(f"http://app.test:{it.site}/")

        answer = await it.page.run(f"""
            const r = await fetch("http://127.0.0.1:{it.port}/models/none/start", {{
                method: "POST",
                headers: {{"authorization": "Bearer a", "x-request-id": "7"}},
            }});
            return [r.status, r.headers.get("x-error-reason"), (await r.json()).detail];
        """)

        assert answer[:2] == [404, "MODEL_NOT_FOUND"]
        assert "none" in answer[2]


async def test_the_page_of_the_documentation_starts_a_model() -> None:
    async with scene() as it:
        await it.page.open(f"http://localhost:{it.port}/docs")

        start = "fetch('/models/story-mini/start', {method: 'POST'})"
        assert await it.page.run(f"return (await {start}).status") == 200
        assert await it.runs()

        # Some proxies add this policy to each page, and a form's origin is then null.
        stop = "fetch('/models/story-mini/stop', {method: 'POST', referrerPolicy: 'no-referrer'})"
        assert await it.page.run(f"return (await {stop}).status") == 200

"""`python -m inference_service.worker`: see the package's docstring."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from . import checksum, engine, machine, parent, props
from .events import emit
from .failure import ExitCode, WorkerError
from .settings import Settings

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGIO)  # SIGIO: the parent is gone
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.05


def main() -> NoReturn:
    """Serve one model until a stop signal, then end the process."""
    _on_stop(lambda *_: os._exit(0))
    try:
        settings = Settings.from_environment(os.environ)
        if settings.exit_with_parent:
            parent.stop_with_parent()
        machine.check_processor()
        machine.ensure_openmp()
        machine.no_core_dumps()
        _serve(_weights(settings), settings)
    except WorkerError as error:
        phase = {"phase": "downloading"} if error.code == ExitCode.DOWNLOAD else {}
        emit("failed", reason=error.reason, message=error.message, **phase)
        sys.exit(error.code)


def _weights(settings: Settings) -> Path:
    if settings.repo is None:
        path = Path(settings.file)
        if settings.sha256 is not None and path.is_file():
            checksum.verify(path, path.name, settings.sha256, ExitCode.MODEL)
        return path
    # Imported here, because a local file needs no huggingface_hub, whose import takes a while.
    # With telemetry, huggingface_hub asks the hub for a list and reads it however long it is.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from . import weights

    source = weights.Source(settings.repo, settings.file, settings.revision)
    # In a thread, because the look-up of the hub's address blocks signal handlers in the main one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(weights.fetch, source, settings.sha256).result()


def _serve(path: Path, settings: Settings) -> NoReturn:
    # llama.cpp holds the interpreter while it loads, so no handler in Python would run.
    _on_stop(signal.SIG_DFL)
    server, header = engine.load(path, settings)
    # The kernel may deliver a signal to a thread of llama.cpp. Then a main thread that waits for a
    # lock sleeps on, but one that reads from this pipe wakes up.
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    _on_stop(lambda *_: None)
    address = urlsplit(server.listening_address)
    host, port = str(address.hostname), int(address.port or 0)
    text = settings.serves == "text"
    emit(
        "serving",
        host=host,
        port=port,
        longest_token=header.longest_token,
        control_tokens=header.control_tokens,
        chat_template=header.has_template or settings.chat_template is not None,
        takes_tools=props.takes_tools(host, port, settings.api_key) if text else None,
    )
    os.read(readable, 1)
    drain = threading.Thread(target=_drain, args=(server,), daemon=True)
    drain.start()
    drain.join(_GRACE_SECONDS)
    # Without llama.cpp's destructor, which waits for every client that is still connected.
    os._exit(0)


def _drain(server: Any) -> None:
    """Wait until no request is in flight."""
    if engine.requests_in_flight(server):
        while engine.requests_in_flight(server):
            time.sleep(_POLL_SECONDS)
        time.sleep(_POLL_SECONDS)  # for the bytes of the last token


def _on_stop(handler: Any) -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, handler)


if __name__ == "__main__":
    main()

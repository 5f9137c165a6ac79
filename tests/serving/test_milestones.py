"""Which steps of a start get a line of the log."""

from __future__ import annotations

from inference_service.lifecycle import Phase, Progress
from inference_service.serving.milestones import Milestones

MB = 10**6


def lines(*steps: Progress) -> list[str]:
    milestones = Milestones("starting the process")
    return [line for step in steps if (line := milestones.line(step)) is not None]


def test_each_phase_has_a_line_once() -> None:
    waits = Progress(Phase.WAITING, message="waits for memory that first use", queue_position=1)
    loads = Progress(Phase.LOADING_WEIGHTS, message="shard")

    assert lines(waits, Progress(Phase.CREATING_CONTAINER), loads, loads) == [
        "waiting (waits for memory that first use)",
        "starting the process",
        "loading weights",
    ]


def test_a_download_has_a_line_for_each_tenth() -> None:
    done = [
        Progress(Phase.DOWNLOADING_WEIGHTS, n * MB, 400 * MB, "bytes", n / 400) for n in range(401)
    ]

    found = lines(*done)

    assert len(found) == 11
    assert found[0] == "downloading weights 0 % (0 of 400 MB)"
    assert found[3] == "downloading weights 30 % (120 of 400 MB)"
    assert found[-1] == "downloading weights 100 % (400 of 400 MB)"


def test_a_question_to_the_hub_is_told_from_a_download() -> None:
    asks = Progress(Phase.DOWNLOADING_WEIGHTS, message="asking the hub for m.gguf")
    some = Progress(Phase.DOWNLOADING_WEIGHTS, 10, 100, "bytes", 0.1, "downloading m.gguf")
    assert lines(asks, some) == [
        "downloading weights (asking the hub for m.gguf)",
        "downloading weights 10 % (0 of 0 MB)",
    ]


def test_a_download_of_unknown_size_has_a_line_for_each_gibibyte() -> None:
    sizes = [n * 512 * 2**20 for n in range(5)]

    assert lines(*(Progress(Phase.DOWNLOADING_WEIGHTS, size, unit="bytes") for size in sizes)) == [
        "downloading weights",
        "downloading weights (1,074 MB)",
        "downloading weights (2,147 MB)",
    ]

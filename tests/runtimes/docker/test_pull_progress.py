"""The progress of the pull of an image, from the events of a Docker daemon."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from inference_service.errors import LaunchError
from inference_service.lifecycle import Phase, Progress
from inference_service.runtimes.docker.pull_progress import PullProgress

Event = dict[str, Any]

MB = 10**6
HEAD: Event = {"status": "Pulling from some/image", "id": "1.0"}
TAIL: list[Event] = [
    {"status": "Digest: sha256:6f2c"},
    {"status": "Status: Downloaded newer image for some/image:1.0"},
]


def event(layer: str, status: str, current: int | None = None, total: int = 0) -> Event:
    detail = {} if current is None else {"current": current, "total": total}
    return {"status": status, "id": layer, "progressDetail": detail}


def layer(name: str, size: int) -> list[Event]:
    """Make the events of one layer after that which names it."""
    return [
        *(event(name, "Downloading", size * part // 4, size) for part in range(1, 5)),
        event(name, "Verifying Checksum"),
        event(name, "Download complete"),
        *(event(name, "Extracting", size * part // 2, size) for part in range(1, 3)),
        event(name, "Pull complete"),
    ]


def pull() -> list[Event]:
    """Make a pull of four layers: one is there, the others come at once.

    They are unpacked one by one.
    """
    sizes = {"aa": 30 * MB, "bb": 1000, "cc": 150 * MB}
    named = [event(name, "Pulling fs layer") for name in sizes]
    events = {name: layer(name, size) for name, size in sizes.items()}
    down = [list(reversed(each[:6])) for each in events.values()]
    mixed = [each.pop() for _ in range(6) for each in down]
    unpacked = [event for each in events.values() for event in each[6:]]
    waiting = [event("cc", "Waiting"), {"status": "Retrying in 5 seconds", "id": "cc"}]
    return [HEAD, event("dd", "Already exists"), *named, *waiting, *mixed, *unpacked, *TAIL]


def shown(events: Iterable[Event]) -> Iterator[Progress]:
    """Yield the progress that watchers see, which never goes back."""
    progress, last = PullProgress("some/image:1.0"), None
    for event in events:
        last = progress.feed(event).after(last)
        yield last


def test_a_pull_rises_from_its_first_layer_to_the_end() -> None:
    fractions = [progress.fraction for progress in shown(pull())]
    known = [fraction for fraction in fractions if fraction is not None]

    assert fractions[0] is None
    assert fractions[-len(known) :] == known == sorted(known)
    assert known[0] < 0.5
    assert known[-1] == 1.0
    assert len(known) - known.index(1.0) <= len(TAIL) + len(["Extracting", "Pull complete"])


def test_the_bytes_of_all_layers_are_added_up() -> None:
    *_, last = shown(pull())

    assert last == Progress(
        Phase.PULLING_IMAGE,
        180 * MB + 1000,
        180 * MB + 1000,
        "bytes",
        1.0,
        f"pulling some/image:1.0: {TAIL[-1]['status']}",
    )


def test_a_layer_that_begins_late_does_not_set_the_progress_back() -> None:
    late = [HEAD, event("aa", "Pulling fs layer"), *layer("aa", MB)]
    late += [event("bb", "Pulling fs layer"), event("bb", "Downloading", 1, MB)]

    fractions = [progress.fraction or 0.0 for progress in shown(late)]

    assert fractions == sorted(fractions)


@pytest.mark.parametrize(
    ("events", "fraction"),
    [
        pytest.param([event("aa", "Pulling fs layer")], 0.0, id="named"),
        pytest.param(layer("aa", 100)[:2], 0.35, id="not named"),
        pytest.param([event("aa", "Pulling fs layer"), *layer("aa", 100)[:2]], 0.35, id="half"),
        pytest.param([event("aa", "Pulling fs layer"), *layer("aa", 100)[:6]], 0.7, id="down"),
        pytest.param([event("aa", "Pulling fs layer"), *layer("aa", 100)[:7]], 0.85, id="unpack"),
        pytest.param([event("aa", "Already exists")], 1.0, id="there already"),
        pytest.param([event("aa", "Already exists"), event("bb", "Already exists")], 1.0, id="all"),
        pytest.param(
            [event("aa", "Already exists"), event("bb", "Pulling fs layer")], 0.5, id="one of two"
        ),
        pytest.param(
            [event("aa", "Pulling fs layer"), event("aa", "Downloading", 5)], 0.0, id="no total"
        ),
        pytest.param(
            [event("aa", "Pulling fs layer"), {"status": "Downloading", "id": "aa"}],
            0.0,
            id="no detail",
        ),
    ],
)
def test_a_layer_counts_by_its_own_share(events: list[Event], fraction: float | None) -> None:
    *_, last = shown([HEAD, *events, event("zz", "Waiting")])

    assert last.fraction == (None if fraction is None else pytest.approx(fraction))


def test_an_image_that_is_up_to_date_has_nothing_to_pull() -> None:
    events = [HEAD, TAIL[0], {"status": "Status: Image is up to date for some/image:1.0"}]

    assert {(p.fraction, p.completed, p.total) for p in shown(events)} == {(None, 0, 0)}


def test_the_event_of_a_failure_is_raised() -> None:
    progress = PullProgress("some/image:1.0")
    for event in pull()[:12]:
        progress.feed(event)

    with pytest.raises(LaunchError) as failed:
        progress.feed({"errorDetail": {"message": "no space"}, "error": "no space left on device"})

    assert str(failed.value) == (
        "the image some/image:1.0 could not be pulled: no space left on device"
    )


def test_a_failure_that_docker_29_tells_in_its_detail_alone_is_raised() -> None:
    with pytest.raises(LaunchError, match="pulled: no space left on device"):
        PullProgress("some/image:1.0").feed({"errorDetail": {"message": "no space left on device"}})


def of_containerd(name: str, status: str, **detail: object) -> Event:
    """Make an event as moby's pull progress of the containerd store writes it (not seen live)."""
    return {"status": status, "progressDetail": detail, "id": name}


HIDDEN = {"hidecounts": True}


def pull_of_containerd() -> list[Event]:
    """Make a pull of three layers: one is on the disk packed, one is never announced."""
    return [
        HEAD,
        of_containerd("aa", "Pulling fs layer"),
        of_containerd("cc", "Already exists", **HIDDEN),
        of_containerd("aa", "Downloading", current=10 * MB, total=30 * MB),
        of_containerd("bb", "Downloading", current=5 * MB),
        of_containerd("aa", "Downloading", current=20 * MB, total=30 * MB),
        of_containerd("bb", "Downloading", current=6 * MB),
        of_containerd("aa", "Download complete", **HIDDEN),
        of_containerd("bb", "Download complete", **HIDDEN),
        *(
            of_containerd(name, "Extracting", current=second, units="s")
            for name in ("cc", "aa", "bb")
            for second in (1, 2, 3)
        ),
        *(of_containerd(name, "Pull complete", **HIDDEN) for name in ("cc", "aa", "bb")),
        *TAIL,
    ]


def moves(events: Iterable[Event]) -> list[bool]:
    """Return for each event whether the start moves by it, as `Report.progress` judges that."""
    seen: list[Progress | None] = [None, *shown(events)]
    return [new != old for old, new in pairwise(seen)]


def test_every_second_of_an_extraction_by_containerd_moves() -> None:
    assert all(moves(pull_of_containerd()))


def test_a_pull_by_containerd_rises_to_one() -> None:
    fractions = [progress.fraction or 0.0 for progress in shown(pull_of_containerd())]
    *_, last = shown(pull_of_containerd())

    assert fractions == sorted(fractions)
    assert fractions[-len(TAIL) - 4] < 1.0, "the extraction of the last layer"
    assert fractions[-1] == pytest.approx(1.0)
    assert last.completed == 36 * MB


def test_a_layer_that_containerd_has_packed_is_not_whole() -> None:
    """As Docker 23 says it, and the later ones; without a download, and without its size."""
    for events in (
        [of_containerd("aa", "Exists")],
        [of_containerd("aa", "Already exists", **HIDDEN)],
        [of_containerd("aa", "Pulling fs layer"), of_containerd("aa", "Download complete")],
    ):
        *_, last = shown([*events, of_containerd("aa", "Extracting", current=1, units="s")])
        assert last.fraction == pytest.approx(0.7)
        assert (last.completed, last.total) == (0, 0)


def test_what_containerd_repeats_ten_times_a_second_does_not_move() -> None:
    stuck = [
        of_containerd("aa", "Downloading", current=10, total=30),
        of_containerd("bb", "Extracting", current=1, units="s"),
    ]

    assert not any(moves([HEAD, *stuck, *stuck * 3])[3:])


def test_the_total_is_unknown_while_that_of_a_layer_is() -> None:
    progress = PullProgress("some/image:1.0")
    events = [event("aa", "Downloading", 1, 3), event("bb", "Downloading", 5, -1)]

    assert [(p.completed, p.total) for p in map(progress.feed, events)] == [(1, 3), (6, 0)]


def of_podman() -> list[Event]:
    """Return the events of a pull by podman 4.3: the last layer is the configuration."""
    complete = [event("bb", "Download complete"), event("cc", "Pulling fs layer")]
    return [
        event("aa", "Pulling fs layer"),
        event("bb", "Pulling fs layer"),
        event("aa", "Downloading", 13434880, 20002461),
        event("bb", "Downloading", 20119552, 30004259),
        event("aa", "Download complete"),
        event("bb", "Downloading", 26443776, 30004259),
        *complete,
        event("cc", "Download complete"),
        event("bb", "Downloading", 26443776, 30004259),
        *complete,
        *[event("cc", "Download complete")] * 2,
    ]


def test_a_pull_by_podman_rises() -> None:
    fractions = [progress.fraction for progress in shown(of_podman())]
    *_, last = shown(of_podman())

    assert fractions[2:] == sorted(fraction or 0.0 for fraction in fractions[2:])
    assert fractions[-1] == pytest.approx(0.7)
    assert last.completed == last.total == 50006720

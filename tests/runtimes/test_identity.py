"""How services of one machine keep out of each other's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from inference_service.runtimes import identity
from inference_service.runtimes.identity import NameTaken, alone

SERVICE = f"tests-{os.getpid()}"

HOLDER = """
import sys
from inference_service.runtimes.identity import alone

with alone(*sys.argv[1:]):
    print("alone", flush=True)
    sys.stdin.read()
"""


def test_the_default_service_has_the_documented_names_and_ports() -> None:
    assert identity.container_name("inference-service", "gpt-2") == "tgi-gpt-2"
    assert identity.first_port("inference-service") == 0


def test_another_service_has_its_own_which_stay_the_same() -> None:
    assert identity.container_name("blue", "gpt-2") == "blue-tgi-gpt-2"
    assert identity.first_port("blue") == identity.first_port("blue") == 0x9E36CAB4
    assert len({identity.first_port(f"service-{number}") % 100 for number in range(50)}) > 25


def test_a_second_service_of_a_name_is_refused_and_others_are_not() -> None:
    with alone(SERVICE, "engine"):
        refused = pytest.raises(NameTaken, match=f"named {SERVICE} .* another --service-name")
        with refused, alone(SERVICE, "engine"):
            pass
        with alone(SERVICE, "another engine"), alone(f"{SERVICE}-2", "engine"):
            pass
    with alone(SERVICE, "engine"):
        pass


def test_a_service_that_is_killed_lets_go() -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, SERVICE, "engine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"alone\n"
        with pytest.raises(NameTaken), alone(SERVICE, "engine"):
            pass
        holder.send_signal(signal.SIGKILL)

    with alone(SERVICE, "engine"):
        pass

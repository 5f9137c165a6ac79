"""The names and ports that separate the services of one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from pydantic import ValidationError

from inference_service.catalog import ModelSpec
from inference_service.key import Key
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


def test_the_record_of_a_claim_has_the_name_of_no_container() -> None:
    assert identity.record_name("blue") == "blue-CLAIM"
    with pytest.raises(ValidationError):
        ModelSpec.model_validate({"id": "x-CLAIM", "hf_name": "x", "context_length": 1})


def test_the_default_service_has_the_documented_names_and_ports() -> None:
    assert identity.container_name("inference-service", Key("gpt-2")) == "tgi-gpt-2"
    assert identity.container_name("inference-service", Key("gpt-2", 2)) == "tgi-gpt-2.R2"
    assert identity.first_port("inference-service") == 0


def test_another_service_has_names_and_ports_of_its_own() -> None:
    assert identity.container_name("blue", Key("gpt-2")) == "blue-tgi-gpt-2"
    assert identity.first_port("blue") == identity.first_port("blue") == 0x9E36CAB4
    assert len({identity.first_port(f"service-{number}") % 100 for number in range(50)}) > 25


def test_only_a_second_service_of_the_same_name_and_daemon_is_refused() -> None:
    with alone(SERVICE, "daemon"):
        refused = pytest.raises(NameTaken, match=f"named {SERVICE} .* another --service-name")
        with refused, alone(SERVICE, "daemon"):
            pass
        with alone(SERVICE, "another daemon"), alone(f"{SERVICE}-2", "daemon"):
            pass
    with alone(SERVICE, "daemon"):
        pass


def test_a_service_that_is_killed_frees_its_name() -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, SERVICE, "daemon"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"alone\n"
        with pytest.raises(NameTaken), alone(SERVICE, "daemon"):
            pass
        holder.send_signal(signal.SIGKILL)

    with alone(SERVICE, "daemon"):
        pass

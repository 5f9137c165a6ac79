"""The image of llama.cpp that is built here: one name, wherever it stands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from inference_service import __version__
from inference_service.engines.kinds import KINDS

ROOT = Path(__file__).parents[1]
NAME = f"localhost/inference-service/llamacpp:{__version__}"
# With what stands before it: a registry of one's own may have it too.
_NAMED = re.compile(r"[\w.:/-]*inference-service/llamacpp:[\w.$-]+")


def test_the_default_is_no_name_of_docker_hub() -> None:
    assert KINDS["llamacpp"].image == NAME


def test_make_image_builds_the_default() -> None:
    said = subprocess.run(
        ["make", "--dry-run", "image"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # The shell of the recipe finds the version.
    recipe = said.stdout.replace("docker build", "echo")
    words = subprocess.run(["sh", "-c", recipe], cwd=ROOT, capture_output=True, text=True)
    assert words.stdout.split() == ["-t", NAME, "-f", "deploy/llamacpp/Dockerfile", "."]


def test_every_page_has_the_name_and_the_tag() -> None:
    pages = [*ROOT.glob("deploy/**/*"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]
    found = {
        (path.name, name)
        for path in pages
        if path.is_file()
        for name in _NAMED.findall(path.read_text())
    }
    assert {name for _, name in found} == {NAME, NAME.replace("localhost", "registry.example:5000")}
    assert {page for page, _ in found} >= {"README.md", "Dockerfile"}

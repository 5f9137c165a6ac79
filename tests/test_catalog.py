"""The models of the catalog, and the messages for its mistakes."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from inference_service.catalog import (
    BUILT_IN,
    UNASKED_CONTEXT,
    Catalog,
    ContainerOptions,
    parse_size,
)
from inference_service.engines import kinds
from inference_service.engines.llamacpp import shape
from inference_service.engines.llamacpp.section import LlamacppNeeds
from inference_service.engines.tgi.section import TgiNeeds
from inference_service.errors import CatalogInvalid, ModelNotFound
from tests.worker.gguf import header

DOCUMENTED = [
    ("gpt-2", "gpt2"),
    ("tiny-llama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
    ("phi-2", "microsoft/phi-2"),
    ("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.1"),
    ("llama-2-7b", "meta-llama/Llama-2-7b-chat-hf"),
    ("falcon-7b", "tiiuae/falcon-7b-instruct"),
]

GOOD = """
[[models]]
id = "mine"
hf_name = "me/mine"
context_length = 128
tgi = { memory = "1GB", weights = { repo = "me/mine" } }
"""

LLAMACPP = """
[[models]]
id = "mine"
hf_name = "me/mine"
context_length = 128
[models.llamacpp]
memory = "64MiB"
"""


@pytest.fixture(scope="module")
def built_in() -> Catalog:
    return kinds.catalog()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.toml"


def test_the_documented_models_come_first_and_story_mini_last(
    built_in: Catalog,
) -> None:
    assert [(s.id, s.hf_name) for s in built_in] == [*DOCUMENTED, ("story-mini", "story-mini")]
    assert len(built_in) == 7


def test_the_documented_models_have_both_engines(built_in: Catalog) -> None:
    assert {s.engines for s in built_in if s.id != "story-mini"} == {("tgi", "llamacpp")}
    assert built_in.find("story-mini").engines == ("llamacpp",)


# Of each config.json: parameters in thousands of millions, layers, heads, those of keys and values,
# and the numbers of each.
SHAPES = {
    "gpt-2": (0.124, 12, 12, 12, 64),
    "tiny-llama": (1.10, 22, 32, 4, 64),
    "phi-2": (2.78, 32, 32, 32, 80),
    "mistral-7b": (7.24, 32, 32, 8, 128),
    "llama-2-7b": (6.74, 32, 32, 32, 128),
    "falcon-7b": (7.22, 32, 71, 1, 64),
}


@pytest.mark.parametrize("model_id", SHAPES)
def test_the_gpu_memory_of_a_documented_model_is_computed(built_in: Catalog, model_id: str) -> None:
    spec = built_in.find(model_id)
    needs = spec.needs(TgiNeeds)
    parameters, layers, heads, of_keys, numbers = SHAPES[model_id]
    context = 2 * 2 * layers * of_keys * numbers * spec.context_length
    size = 2 * parameters * 1e9 + 2 * context / 0.9 + 2e9

    assert needs.gpu_memory == math.ceil(size / 1e9) * 10**9
    divides = [n for n in range(1, 33) if heads % n == 0 and (of_keys % n == 0 or of_keys == 1)]
    assert [*needs.gpu_counts] == divides
    assert "NUM_SHARD" not in needs.env


def test_the_weights_of_story_mini_are_in_the_package(built_in: Catalog) -> None:
    needs = built_in.find("story-mini").needs(LlamacppNeeds)

    assert needs.weights.path is not None
    assert needs.weights.path.read_bytes()[:4] == b"GGUF"


def test_a_file_of_the_user_adds_models_at_the_end_and_replaces_them_in_place(file: Path) -> None:
    file.write_text(GOOD + GOOD.replace('"mine"', '"phi-2"'))

    catalog = kinds.catalog(file)

    assert [s.id for s in catalog] == [*(id for id, _ in DOCUMENTED), "story-mini", "mine"]
    assert catalog.find("phi-2").hf_name == "me/mine"
    assert catalog.find("phi-2").engines == ("tgi",)


def test_the_later_of_two_files_wins(tmp_path: Path) -> None:
    one, two = tmp_path / "1.toml", tmp_path / "2.toml"
    one.write_text(GOOD)
    two.write_text(GOOD.replace("128", "256"))

    assert kinds.catalog(one, two).find("mine").context_length == 256
    assert kinds.catalog(two, one).find("mine").context_length == 128


@pytest.mark.parametrize("path", ["m.gguf", "./sub/../m.gguf", "{absolute}"])
def test_a_path_is_relative_to_its_file(
    file: Path, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    (tmp_path / "m.gguf").touch()
    path = path.format(absolute=tmp_path / "m.gguf")
    file.write_text(LLAMACPP + f'weights = {{ path = "{path}" }}')

    needs = kinds.catalog(file).find("mine").needs(LlamacppNeeds)

    assert needs.weights.path == tmp_path / "m.gguf"


def test_a_path_may_begin_in_the_home_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "m.gguf").touch()
    monkeypatch.setenv("HOME", str(home))
    file.write_text(LLAMACPP + 'weights = { path = "~/m.gguf" }')

    needs = kinds.catalog(file).find("mine").needs(LlamacppNeeds)

    assert needs.weights.path == home / "m.gguf"


def test_an_entry_can_have_every_key(file: Path) -> None:
    file.write_text(
        """
        [[models]]
        id = "a.b_c-9"
        hf_name = "me/mine"
        aliases = ["gpt-4o-mini", "me/mine:latest"]
        context_length = 64
        engine = "llamacpp"
        idle_timeout = inf
        pinned = true
        preload = true
        allow_control_tokens = true
        control_tokens = ["<|im_end|>"]
        [models.tgi]
        memory = "1.5GB"
        image = "x:1"
        env = { A = "b" }
        gpus = "all"
        gpu_memory = "16GB"
        weights = { repo = "me/mine", revision = "refs/pr/1" }
        [models.llamacpp]
        memory = "6MiB"
        slots = 64
        threads = 256
        serves = "embeddings"
        pooling = "cls"
        chat_template = "{{ messages }}"
        weights = { repo = "me/mine", file = "q/m.gguf", revision = "v1", sha256 = "%s" }
        """
        % ("0a" * 32)
    )

    spec = kinds.catalog(file).find("a.b_c-9")

    tgi, llamacpp = spec.needs(TgiNeeds), spec.needs(LlamacppNeeds)
    assert (spec.engine, tgi.gpus, tgi.env) == ("llamacpp", "all", {"A": "b"})
    assert tgi.gpu_memory == 16 * 10**9
    assert spec.aliases == ["gpt-4o-mini", "me/mine:latest"]
    assert (spec.idle_timeout, spec.pinned, spec.preload) == (math.inf, True, True)
    assert (tgi.memory, llamacpp.memory) == (1_500_000_000, 6 * 2**20)
    assert (spec.allow_control_tokens, spec.control_tokens) == (True, ["<|im_end|>"])
    assert (llamacpp.serves, llamacpp.pooling) == ("embeddings", "cls")


def test_the_options_of_a_container(file: Path) -> None:
    options = """{ shm_size = "8GiB", devices = ["/dev/kfd", "/dev/dri"], groups = ["video"],
        ipc = "host", ulimits = { memlock = -1 }, seccomp = "unconfined",
        cap_add = ["SYS_NICE"], pids_limit = 100 }"""
    file.write_text(GOOD.replace("memory", f"container = {' '.join(options.split())}, memory"))

    container = kinds.catalog(file).find("mine").needs(TgiNeeds).container

    assert container == ContainerOptions(
        shm_size="8GiB",  # type: ignore[arg-type]
        devices=("/dev/kfd", "/dev/dri"),
        groups=("video",),
        ipc="host",
        ulimits={"memlock": -1},
        seccomp="unconfined",
        cap_add=("SYS_NICE",),
        pids_limit=100,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("privileged = true", "key tgi.container.privileged: is not known; known are shm_size"),
        ('devices = ["/etc/passwd"]', "key tgi.container.devices.0: '/etc/passwd' does not match"),
        ('devices = ["/dev/../etc"]', "key tgi.container.devices.0: '/dev/../etc' does not match"),
        ('ipc = "container:x"', "key tgi.container.ipc: Input should be 'private' or 'host'"),
        ("ulimits = { core = 1 }", "key tgi.container.ulimits.core"),
        ('cap_add = ["SYS_ADMIN"]', "key tgi.container.cap_add.0: Input should be 'CHOWN', 'DAC_"),
        ('cap_add = ["ALL"]', "key tgi.container.cap_add.0: Input should be"),
        ("pids_limit = 63", "key tgi.container.pids_limit: Input should be greater"),
        ("pids_limit = -1", "key tgi.container.pids_limit: Input should be greater"),
    ],
)
def test_an_option_that_is_not_allowed_is_named(file: Path, options: str, message: str) -> None:
    file.write_text(GOOD.replace("memory", f"container = {{ {options} }}, memory"))

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)
    assert message in str(refused.value)


def test_a_missing_key_has_a_default(file: Path) -> None:
    file.write_text(GOOD + LLAMACPP.replace('"mine"', '"2"') + 'weights={repo="a/b",file="c.gguf"}')
    catalog = kinds.catalog(file)
    mine, llamacpp = catalog.find("mine"), catalog.find("2").needs(LlamacppNeeds)
    tgi = mine.needs(TgiNeeds)

    assert (mine.engine, mine.idle_timeout, mine.pinned, mine.preload) == (None, None, False, False)
    assert (tgi.gpus, tgi.image, tgi.env, tgi.weights.revision) == ("auto", None, {}, "main")
    assert tgi.gpu_memory is None
    assert (llamacpp.slots, llamacpp.threads, llamacpp.weights.sha256) == (4, None, None)


ENTRY = "entry 1 ('mine'), "
SIZE = 'must be a size of at least 6MiB, such as "4GB" or "512MiB"'
SOURCE = "must have either `path`, or `repo` and `file`"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[models]]", "[models]", "key models: Input should be a valid list"),
        (GOOD, "", "key models: is missing"),
        (GOOD, "models = []", "key models: List should have at least 1 item"),
        (GOOD, "models = [1]", "entry 1 ('not a table'), Input should be a valid dictionary"),
        (GOOD, f"x = 1\n{GOOD}", "key x: is not known; known are models"),
        ('id = "mine"', "", "entry 1 ('without id'), key id: is missing"),
        ('"mine"', '"Mine"', "entry 1 ('Mine'), key id: 'Mine' does not match ^[a-z0-9]"),
        ('"mine"', '"-mine"', "entry 1 ('-mine'), key id: '-mine' does not match"),
        ('"mine"', '"a/../b"', "entry 1 ('a/../b'), key id: 'a/../b' does not match"),
        ('"mine"', f'"{"a" * 64}"', "does not match ^[a-z0-9][a-z0-9._-]{0,62}$"),
        ('"mine"', '"mine\\n"', "does not match"),
        ('"mine"', "5", "entry 1 (5), key id: Input should be a valid string, not 5"),
        ('"me/mine"\n', '""\n', f"{ENTRY}key hf_name: String should have at least 1"),
        ("128", "63", f"{ENTRY}key context_length: Input should be greater than or equal to 64"),
        ("128", "10000001", f"{ENTRY}key context_length: Input should be less than or equal to"),
        ("128", '"128"', f"{ENTRY}key context_length: Input should be a valid integer, not '128'"),
        ("128", "128.5", f"{ENTRY}key context_length: Input should be a valid integer, not 128.5"),
        ("128", "true", f"{ENTRY}key context_length: Input should be a valid integer, not True"),
        ("context_length", "contextlength", f"{ENTRY}key context_length: is missing"),
        (
            "context_length",
            "contextlength",
            f"{ENTRY}key contextlength: is not known; known are id, hf_name, aliases, ",
        ),
        (
            "128",
            '128\nengine = "vllm"',
            f"{ENTRY}key engine: Input should be 'tgi', 'llamacpp' or 'openai'",
        ),
        (
            "128",
            '128\nengine = "llamacpp"',
            f"{ENTRY}names the engine llamacpp, but has no section `llamacpp`",
        ),
        *[
            ("128", f"128\nidle_timeout = {value}", f"{ENTRY}key idle_timeout: Input should be")
            for value in ("-1", "nan", '"5m"', "true")
        ],
        ("128", "128\npinned = 1", f"{ENTRY}key pinned: Input should be a valid boolean, not 1"),
        ("128", '128\npreload = "yes"', f"{ENTRY}key preload: Input should be a valid boolean"),
        ("tgi =", "vllm =", f"{ENTRY}key vllm: is not known; known are"),
        ("{ memory", "5 #", f"{ENTRY}key tgi: Input should be a valid dictionary"),
        ('memory = "1GB",', "", f"{ENTRY}key tgi.memory: is missing"),
        ("{ memory", "{ gpu = 1, memory", f"{ENTRY}key tgi.gpu: is not known; known are memory"),
        ("{ memory", "{ slots = 1, memory", f"{ENTRY}key tgi.slots: is not known"),
        ('"1GB"', '"lots"', f"{ENTRY}key tgi.memory: {SIZE}"),
        ('"1GB"', "4", f"{ENTRY}key tgi.memory: {SIZE}"),
        (
            "{ memory",
            '{ gpus = "one", memory',
            f"{ENTRY}key tgi.gpus: Input should be 'auto', 'all",
        ),
        ("{ memory", "{ gpu_memory = 8, memory", f"{ENTRY}key tgi.gpu_memory: {SIZE}"),
        *[
            ("{ memory", f"{{ gpu_counts = {counts}, memory", f"{ENTRY}key tgi.gpu_counts{what}")
            for counts, what in [
                ("[0]", ".0: Input should be greater than or equal to 1"),
                ("[65]", ".0: Input should be less than or equal to 64"),
                ("2", ": Input should be a valid tuple, not 2"),
            ]
        ],
        (
            "{ memory",
            '{ gpus = "none", gpu_counts = [1], memory',
            f'{ENTRY}key tgi: has `gpu_counts`, but also `gpus = "none"`',
        ),
        (
            "{ memory",
            "{ gpu_counts = [1], env = { NUM_SHARD = '1' }, memory",
            f"{ENTRY}key tgi: has both `gpu_counts` and NUM_SHARD in `env`",
        ),
        (
            "{ memory",
            '{ gpus = "none", gpu_memory = "8GB", memory',
            f'{ENTRY}key tgi: has `gpu_memory`, but also `gpus = "none"`',
        ),
        ("{ memory", "{ env = { A = 1 }, memory", f"{ENTRY}key tgi.env.A: Input should be a valid"),
        *[
            ("{ memory", f"{{ env = {{ {name} = '1' }}, memory", f"{ENTRY}key tgi.env: {why}")
            for name, why in [
                ("API_KEY", "must not have API_KEY: the service gives each run a key of its own"),
                ("HOSTNAME", "must not have HOSTNAME: the service chooses the address"),
                ("PORT", "must not have PORT: the service chooses the port"),
                ("'A=B'", "has 'A=B', which no process can have as a variable"),
                ("''", "has '', which no process can have as a variable"),
            ]
        ],
        (
            "{ memory",
            '{ env = { A = "\\u0000" }, memory',
            f"{ENTRY}key tgi.env: has 'A', which no process can have",
        ),
        (
            "{ repo",
            "{ file = 'x', repo",
            f"{ENTRY}key tgi.weights.file: is not known; known are repo",
        ),
        ("repo =", "revision =", f"{ENTRY}key tgi.weights.repo: is missing"),
        ('"me/mine" }', '"a/b/c" }', f"{ENTRY}key tgi.weights.repo: 'a/b/c' does not match"),
    ],
)
def test_the_message_of_a_mistake_has_its_place_and_the_allowed_values(
    file: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    file.write_text(GOOD.replace(old, new, 1))

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)

    lines = refused.value.mistakes
    assert all(line.startswith(f"{file}: ") for line in lines)
    assert any(message in line for line in lines)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("", "key llamacpp.weights: is missing"),
        ("weights = {}", f"key llamacpp.weights: {SOURCE}"),
        ('weights = { repo = "a/b" }', f"key llamacpp.weights: {SOURCE}"),
        ('weights = { file = "c.gguf" }', f"key llamacpp.weights: {SOURCE}"),
        ('weights = { path = "x", repo = "a/b", file = "c.gguf" }', SOURCE),
        ('weights = { path = "x", file = "c.gguf" }', SOURCE),
        ('weights = { repo = "a/b", file = "c.bin" }', "weights.file: 'c.bin' does not match"),
        ('weights = { repo = "a/b", file = "c.gguf", sha256 = "AB" }', "weights.sha256: 'AB' does"),
        (
            'weights = { repo = "a/b", url = "c" }',
            "weights.url: is not known; known are repo, file",
        ),
        *[
            (
                f'env = {{ LLAMACPP_{name} = "1" }}\nweights = {{ path = "x" }}',
                f"key llamacpp.env: must not have LLAMACPP_{name}: {why}",
            )
            for name, why in [
                ("API_KEY", "the service gives each run a key of its own"),
                ("PORT", "the service chooses address and port"),
                ("SLOTS", "use `slots`"),
                ("REPO", "use `weights`"),
                ("CONTEXT", "use `context_length` of the entry"),
            ]
        ],
        ('slots = 0\nweights = { path = "x" }', "key llamacpp.slots: Input should be greater than"),
        ('slots = 65\nweights = { path = "x" }', "key llamacpp.slots: Input should be less than"),
        ('threads = 0\nweights = { path = "x" }', "key llamacpp.threads: Input should be greater"),
        (
            'serves = "chat"\nweights = { repo = "a/b", file = "c.gguf" }',
            "llamacpp.serves: Input should be 'text', 'embeddings' or 'rerank', not 'chat'",
        ),
        (
            'pooling = "mean"\nweights = { repo = "a/b", file = "c.gguf" }',
            'key llamacpp: has `pooling`, which goes with `serves = "embeddings"`',
        ),
        (
            'gpus = "all"\nweights = { path = "x" }',
            "key llamacpp.gpus: is not known; known are mem",
        ),
    ],
)
def test_the_message_of_a_mistake_in_the_section_llamacpp(
    file: Path, rest: str, message: str
) -> None:
    file.write_text(LLAMACPP + rest)

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)

    assert f"{file}: entry 1 ('mine'), key llamacpp" in str(refused.value)
    assert message in str(refused.value)


STORY = BUILT_IN.parent / "story_mini" / "story-mini.gguf"


def local(path: object, more: str = "", section: str = "") -> str:
    head = f'[[models]]\nid = "mine"\n{more}\n[models.llamacpp]\n{section}\n'
    return head + f'weights = {{ path = "{path}" }}\n'


def test_a_gguf_file_describes_its_model(file: Path) -> None:
    file.write_text(local(STORY))

    spec = kinds.catalog(file).find("mine")

    assert (spec.id, spec.hf_name, spec.context_length) == ("mine", "mine", 512)
    needs = spec.needs(LlamacppNeeds)
    assert needs.memory == shape.read(STORY).memory(512, needs.slots)


def test_a_key_that_is_given_wins_over_the_file(file: Path) -> None:
    more = 'hf_name = "me/mine"\ncontext_length = 256'
    file.write_text(local(STORY, more, 'memory = "64MiB"'))

    spec = kinds.catalog(file).find("mine")

    assert (spec.hf_name, spec.context_length) == ("me/mine", 256)
    assert spec.needs(LlamacppNeeds).memory == 64 << 20


def test_a_shorter_context_and_fewer_slots_need_less_memory(file: Path) -> None:
    file.write_text(local(STORY, "context_length = 256", "slots = 1"))

    assert kinds.catalog(file).find("mine").needs(LlamacppNeeds).memory == shape.read(STORY).memory(
        256, 1
    )


def test_a_context_longer_than_that_of_the_model_is_refused(file: Path) -> None:
    file.write_text(local(STORY, "context_length = 513", 'memory = "1GB"'))

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)

    what = "must be at most 512, the context length of the model in its file, not 513"
    assert str(refused.value) == f"{file}: entry 'mine', key context_length: {what}"


def test_a_very_long_context_is_not_chosen_but_may_be_asked_for(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    path.write_bytes(
        header(
            ("general.architecture", "llama"),
            ("llama.block_count", 2),
            ("llama.context_length", 131072),
        )
    )
    file.write_text(local(path))
    assert kinds.catalog(file).find("mine").context_length == UNASKED_CONTEXT

    file.write_text(local(path, "context_length = 131072"))
    assert kinds.catalog(file).find("mine").context_length == 131072


@pytest.mark.parametrize(
    ("more", "section"),
    [("", ""), ("context_length = 128", ""), ("", 'memory = "1GB"')],
)
def test_a_file_that_is_no_gguf_does_not_stand_for_keys(
    file: Path, tmp_path: Path, more: str, section: str
) -> None:
    path = tmp_path / "page.gguf"
    path.write_bytes(b"<html>Sign in</html>")
    file.write_text(local(path, more, section))

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)

    where = f"{file}: entry 'mine', key llamacpp.weights.path: {path} cannot be read as GGUF: "
    assert str(refused.value).startswith(where)
    assert "needs `context_length`, and its section `memory`" in str(refused.value)


def test_a_file_that_is_no_gguf_is_for_the_start_to_report(file: Path, tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_bytes(b"<html>Sign in</html>")
    file.write_text(local("page.gguf", "context_length = 4096", 'memory = "1GB"'))

    assert kinds.catalog(file).find("mine").context_length == 4096


def test_weights_of_a_repository_do_not_stand_for_keys(file: Path) -> None:
    file.write_text(LLAMACPP.replace('memory = "64MiB"', 'weights={repo="a/b",file="c.gguf"}'))

    with pytest.raises(CatalogInvalid, match="key llamacpp: must have `memory`, which is"):
        kinds.catalog(file)


def test_a_path_of_another_engine_does_not_stand_for_the_context_length(file: Path) -> None:
    section = f'weights.path = "{STORY}"\nmemory = "1GB"\ncommand = ["a", "{{port}}"]'
    file.write_text(f'[[models]]\nid = "mine"\n[models.openai]\n{section}')

    with pytest.raises(CatalogInvalid, match="'mine', key context_length: is missing"):
        kinds.catalog(file)


@pytest.mark.parametrize("given", ["chatml", "{{ messages }}", "{% if x %}a{% endif %}"])
def test_a_chat_template_is_text_or_chatml(file: Path, given: str) -> None:
    rest = f'chat_template = "{given}"\nweights = {{ repo = "a/b", file = "c.gguf" }}'
    file.write_text(LLAMACPP + rest)

    assert kinds.catalog(file).find("mine").needs(LlamacppNeeds).chat_template == given


def test_a_chat_template_may_be_a_file_beside_the_catalog(file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages }}é")
    rest = 'chat_template = "mine.jinja"\nweights = { repo = "a/b", file = "c.gguf" }'
    file.write_text(LLAMACPP + rest)

    assert kinds.catalog(file).find("mine").needs(LlamacppNeeds).chat_template == "{{ messages }}é"


@pytest.mark.parametrize(
    ("given", "message"),
    [("llama2", "must be Jinja with {{ or {%, the name of a"), ("a.jinja", "cannot be read: ")],
)
def test_what_is_no_chat_template_is_refused(file: Path, given: str, message: str) -> None:
    rest = f'chat_template = "{given}"\nweights = {{ repo = "a/b", file = "c.gguf" }}'
    file.write_text(LLAMACPP + rest)

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)

    assert f"{file}: entry 'mine', key llamacpp.chat_template: " in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize("content", [b"plain", b"{{ " + b"x" * 30_000, b"{{ \xff }}"])
def test_a_file_that_is_no_chat_template_is_refused(
    file: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "mine.jinja").write_bytes(content)
    rest = 'chat_template = "mine.jinja"\nweights = { repo = "a/b", file = "c.gguf" }'
    file.write_text(LLAMACPP + rest)

    with pytest.raises(CatalogInvalid, match=r"key llamacpp\.chat_template: .*mine\.jinja"):
        kinds.catalog(file)


def test_an_entry_without_any_engine_is_refused(file: Path) -> None:
    file.write_text('models = [{ id = "mine", hf_name = "x", context_length = 128 }]')

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)

    assert str(refused.value) == f"{file}: {ENTRY}must have a section `tgi`, `llamacpp` or `openai`"


def test_all_mistakes_are_reported_at_once(file: Path) -> None:
    file.write_text(GOOD + GOOD.replace("128", "1").replace("1GB", "1") + GOOD.replace("me/", "/"))

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)

    lines = refused.value.mistakes
    assert len(lines) == 3
    assert all(line.startswith(f"{file}: entry 2 ('mine'), key ") for line in lines[:2])
    assert lines[2].startswith(f"{file}: entry 3 ('mine'), key tgi.weights.repo: ")


def test_two_entries_of_one_file_must_not_have_the_same_id(file: Path) -> None:
    file.write_text(GOOD * 2 + GOOD.replace('"mine"', '"once"'))

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)

    assert str(refused.value) == f"{file}: has more than one entry for mine"


def entry(model_id: str, hf_name: str = "x", aliases: str = "") -> str:
    lines = GOOD.replace('"mine"', f'"{model_id}"').replace(
        'hf_name = "me/mine"', f'hf_name = "{hf_name}"'
    )
    return lines.replace("context_length", f"aliases = [{aliases}]\ncontext_length")


def test_a_model_is_found_by_its_other_names(file: Path) -> None:
    file.write_text(entry("one", "org/One", '"gpt-4o-mini", "one:latest"') + entry("two", "gpt2"))
    catalog = kinds.catalog(file)

    for name in ("one", "org/One", "gpt-4o-mini", "one:latest"):
        assert catalog.find(name).id == "one"
    assert catalog.find("gpt2").id == "two"  # and not the built-in one, which has that name too
    assert catalog.find("gpt-2").id == "gpt-2"
    with pytest.raises(ModelNotFound):
        catalog.find("org/one")


def test_an_alias_wins_over_the_name_at_hugging_face(file: Path) -> None:
    file.write_text(entry("one", "org/One", '"org/Two"') + entry("two", "org/Two"))

    assert kinds.catalog(file).find("org/Two").id == "one"


@pytest.mark.parametrize(
    ("entries", "mistake"),
    [
        (entry("one", aliases='"gpt-2"'), "'one', key aliases: 'gpt-2' names the model 'gpt-2'"),
        (
            entry("one", aliases='"a"') + entry("two", aliases='"b", "a"'),
            "'two', key aliases: 'a' names the model 'one'",
        ),
    ],
    ids=["an id", "an alias"],
)
def test_an_alias_names_one_model(file: Path, entries: str, mistake: str) -> None:
    file.write_text(entries)

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)

    assert str(refused.value) == f"{file}: entry {mistake} already"


def test_an_alias_is_one_word(file: Path) -> None:
    file.write_text(entry("one", aliases='"a b"'))

    with pytest.raises(CatalogInvalid, match=r"key aliases\.0: 'a b' does not match"):
        kinds.catalog(file)


@pytest.mark.parametrize("exists", [False, True], ids=["missing", "a directory"])
def test_weights_that_are_no_file_are_reported(file: Path, tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "m.gguf").mkdir()
    file.write_text(LLAMACPP + 'weights = { path = "m.gguf" }')

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)

    assert str(refused.value) == (
        f"{file}: entry 'mine', key llamacpp.weights.path: there is no file {tmp_path}/m.gguf"
    )


def test_a_file_may_begin_with_a_byte_order_mark(file: Path) -> None:
    file.write_text(GOOD, encoding="utf-8-sig")

    assert "mine" in kinds.catalog(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"[[models", "is not TOML: ", id="broken"),
        pytest.param(b"id = \xff", "is not TOML: byte 5 is not UTF-8; save", id="not UTF-8"),
        pytest.param(GOOD.encode("utf-16"), "is not TOML: byte 0 is not UTF-8", id="UTF-16"),
        pytest.param(b"a = " + b"9" * 5000, "is not TOML: ", id="a number of 5,000 digits"),
        pytest.param(b"a = " + b"[" * 9000, "is not TOML: ", id="nested too deeply"),
        pytest.param(b"a = 1\na = 2", "is not TOML: ", id="the same key twice"),
        pytest.param(b'{"models": []}', "is not TOML: ", id="JSON"),
        pytest.param(None, "cannot be read: No such file or directory", id="missing"),
    ],
)
def test_a_file_that_is_no_catalog_is_reported(
    file: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(CatalogInvalid) as refused:
        kinds.catalog(file)

    assert str(refused.value).startswith(f"{file}: {message}")


def test_what_is_no_file_is_no_catalog(tmp_path: Path) -> None:
    pipe, circle = tmp_path / "pipe", tmp_path / "circle"
    os.mkfifo(pipe)  # nobody ever writes to it
    circle.symlink_to(circle)
    for path, cause in ((tmp_path, "it is not a file"), (pipe, "it is not a file"), (circle, "")):
        with pytest.raises(CatalogInvalid, match=f"cannot be read: {cause}"):
            kinds.catalog(path)


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
def test_the_ends_of_lines_of_other_systems(file: Path, ends: str) -> None:
    file.write_bytes(GOOD.replace("\n", ends).encode())

    assert "mine" in kinds.catalog(file)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a\\u0000b", r"'a\\x00b' cannot be used: embedded null byte"),
        ("x" * 5000, "cannot be used: File name too long"),
        ("circle/a.gguf", "cannot be used: "),
        ("~no-such-user/a.gguf", "there is no file"),
        ("", "there is no file"),
        (".", "there is no file"),
    ],
)
@pytest.mark.parametrize("section", ["llamacpp", "openai"])
def test_a_path_that_cannot_be_used(file: Path, section: str, path: str, message: str) -> None:
    if section == "openai" and path in ("", "."):
        pytest.skip("a folder can be weights")
    (file.parent / "circle").symlink_to(file.parent / "circle")
    file.write_text(
        f'[[models]]\nid = "mine"\nhf_name = "a"\ncontext_length = 128\n[models.{section}]\n'
        f'memory = "1GB"\nweights.path = "{path}"\n'
        + ("" if section == "llamacpp" else 'command = ["a", "{port}", "{weights}"]\n')
    )

    with pytest.raises(CatalogInvalid, match=f"key {section}.weights.path: .*{message}"):
        kinds.catalog(file)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6MiB", 6 * 2**20),
        ("512MiB", 2**29),
        ("4GB", 4 * 10**9),
        ("4 GiB", 2**32),
        ("4gb", 4 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("6144KiB", 6 * 2**20),
    ],
)
def test_a_size_is_a_number_with_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value",
    [
        *("", "4", "GB", "4G", "4TB", "-4GB", "4GBs", "1e3GB", "4,5GB", " 4GB", "4GB\n", "5MiB"),
        *("0GB", 4, None, 4.5, [], "4\u212ab"),
        pytest.param("9" * 400 + "GB", id="beyond floats"),
    ],
)
def test_anything_else_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="size of at least 6MiB"):
        parse_size(value)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("gpt_2", "gpt-2"),
        ("GPT-2", "gpt-2"),
        ("tinyllama", "tiny-llama"),
        ("mistral", "mistral-7b"),
    ],
)
def test_an_unknown_id_gets_the_nearest_one(built_in: Catalog, asked: str, nearest: str) -> None:
    with pytest.raises(ModelNotFound) as refused:
        built_in.find(asked)

    assert refused.value.message == f"no model {asked!r}; did you mean {nearest!r}?"
    assert refused.value.metadata == {"model_id": asked, "nearest": nearest}


@pytest.mark.parametrize("asked", ["", "../x", "qqqq", "\n", "🙂" * 30])
def test_an_id_like_no_other_gets_all_ids(built_in: Catalog, asked: str) -> None:
    with pytest.raises(ModelNotFound) as refused:
        built_in.find(asked)

    known = ", ".join([*(id for id, _ in DOCUMENTED), "story-mini"])
    assert refused.value.message == f"no model {asked!r}; known are {known}"
    assert refused.value.metadata == {"model_id": asked}


def test_a_very_long_id_is_shown_shortened(built_in: Catalog) -> None:
    with pytest.raises(ModelNotFound) as refused:
        built_in.find("x" * 10_000)

    assert refused.value.metadata == {"model_id": "x" * 80 + "..."}
    assert len(refused.value.message) < 300

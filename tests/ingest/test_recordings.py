"""Recordings as people have them: kinds of WAVE, odd headers, wrong names, short clips; and the tables beside them."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_folders

from atlas.errors import Unsupported, UsageError
from atlas.live.media import Sound
from ingest.data.examples import BadMedia
from ingest.data.media import open_audio
from ingest.datasets import audio
from ingest.datasets._files import read_csv

soundfile = pytest.importorskip("soundfile")

KNOWN = np.array([0, 0.5, -0.5, 0.25, -1, 0.75], np.float32)
"""Exact in every format."""


KINDS = [
    (kind, subtype)
    for kind in ("WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF")
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
    if soundfile.check_format(kind, subtype)
]


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.bin"])
def test_every_format_is_read_whatever_its_name(tmp_path: Path, kind: str, subtype: str, name: str) -> None:
    soundfile.write(str(tmp_path / name), KNOWN, 8000, format=kind, subtype=subtype)
    samples, rate = open_audio(tmp_path / name)
    assert rate == 8000 and samples.dtype == np.float32
    np.testing.assert_array_equal(samples, KNOWN)


def chunks(*parts: tuple[bytes, bytes], riff: int | None = None, data: int | None = None) -> bytes:
    """A WAVE file of these chunks, with other sizes in the header than there are."""
    body = b"WAVE"
    for name, content in parts:
        size = len(content) if data is None or name != b"data" else data
        body += name + struct.pack("<I", size) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def form(code: int = 1, bits: int = 16) -> tuple[bytes, bytes]:
    return b"fmt ", struct.pack("<HHIIHH", code, 1, 8000, 8000 * bits // 8, bits // 8, bits)


SIXTEEN = (b"data", (KNOWN * 32_768).astype("<i2").tobytes())
FLOATS = (b"data", KNOWN.astype("<f4").tobytes())


@pytest.mark.parametrize(
    "content",
    [
        chunks(form(), SIXTEEN),
        chunks((b"LIST", b"odd"), form(), (b"junk", b"x"), SIXTEEN, (b"id3 ", b"abc")),
        chunks(form(), SIXTEEN, riff=2**32 - 1, data=2**32 - 1),
        chunks(form(3, 32), FLOATS),
        chunks((b"LIST", b"even"), form(3, 32), (b"fact", b"\6\0\0\0"), FLOATS),
        chunks(form(3, 32), FLOATS, riff=2**32 - 1, data=2**32 - 1),
    ],
    ids=["plain", "other chunks", "streamed", "floats", "floats and chunks", "streamed floats"],
)
def test_odd_headers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    samples, rate = open_audio(tmp_path / "x.wav")
    assert rate == 8000
    np.testing.assert_array_equal(samples, KNOWN)


def test_a_float_file_that_was_cut_is_not_read_as_a_shorter_one(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(chunks(form(3, 32), FLOATS)[:-8])
    with pytest.raises(BadMedia, match=r"x.wav is truncated: it has 16 of 24 bytes"):
        open_audio(tmp_path / "x.wav")


def test_a_file_that_was_never_finished(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(chunks(form(), SIXTEEN, riff=0, data=0))
    with pytest.raises(BadMedia, match="x.wav is unfinished: its header says 0 bytes of sound, and 12 follow"):
        open_audio(tmp_path / "x.wav")


def test_a_header_that_says_less_than_there_is(tmp_path: Path) -> None:
    long = (b"data", np.full(40, 0.5 * 32_768).astype("<i2").tobytes())
    (tmp_path / "x.wav").write_bytes(chunks(form(), long, data=20))
    with pytest.raises(BadMedia, match="x.wav has at least 80 bytes of sound, and its header says 20"):
        open_audio(tmp_path / "x.wav")
    (tmp_path / "x.wav").write_bytes(chunks(form(), SIXTEEN) + bytes(40))
    np.testing.assert_array_equal(open_audio(tmp_path / "x.wav")[0], KNOWN)


@pytest.mark.parametrize("rate", [0, 1, 2**31])
def test_a_rate_that_no_recording_has(tmp_path: Path, rate: int) -> None:
    (tmp_path / "x.wav").write_bytes(chunks((b"fmt ", struct.pack("<HHIIHH", 1, 1, rate, 0, 2, 16)), SIXTEEN))
    with pytest.raises(BadMedia, match=f"its header says 1 channels of {rate:,} samples a second"):
        open_audio(tmp_path / "x.wav")


def test_channels_that_cancel_each_other_are_no_silence(tmp_path: Path) -> None:
    soundfile.write(str(tmp_path / "x.wav"), np.stack([KNOWN, -KNOWN], 1), 8000, subtype="PCM_16")
    with pytest.raises(BadMedia, match="silent when its channels are averaged, as they cancel out; keep one"):
        open_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 32_767.0, -3.0])
def test_floats_that_are_no_samples(tmp_path: Path, value: float) -> None:
    soundfile.write(str(tmp_path / "x.wav"), np.array([0, value], np.float32), 8000, subtype="FLOAT")
    with pytest.raises(BadMedia, match="has samples up to (nan|inf|32767|3); floats go from -1 to 1"):
        open_audio(tmp_path / "x.wav")


def test_floats_a_little_above_1_are_cut_to_it(tmp_path: Path) -> None:
    soundfile.write(str(tmp_path / "x.wav"), np.array([0.5, 1.1, -1.3], np.float32), 8000, subtype="FLOAT")
    assert open_audio(tmp_path / "x.wav")[0].tolist() == [0.5, 1, -1]


def test_without_soundfile_only_plain_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "x.flac").write_bytes(chunks(form(), SIXTEEN))
    np.testing.assert_array_equal(open_audio(tmp_path / "x.flac")[0], KNOWN)
    (tmp_path / "x.wav").write_bytes(chunks(form(3, 32), FLOATS))
    with pytest.raises(Unsupported, match="reading x.wav needs soundfile"):
        open_audio(tmp_path / "x.wav")


# Short clips


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_short_clips_are_followed_by_silence(rate: int) -> None:
    found = Sound(np.ones(10, np.float32), rate).at(16_000)
    assert (found.dtype, found.shape) == (np.float32, (1600,))
    assert found[0] > 0.5 and not found[200:].any()
    exact = Sound(np.arange(1600, dtype=np.float32), 16_000)
    np.testing.assert_array_equal(exact.at(16_000), exact.samples)


@pytest.fixture(scope="module")
def tiny_audio() -> Any:
    from ingest.job import Execution, make_job
    from ingest.run.prepare import load_model

    return load_model(make_job({"model": "tiny-audio"}), Execution())


@pytest.mark.parametrize("samples", [1, 160, 400, 1199])
def test_a_model_hears_the_shortest_clip(samples: int, tiny_audio: Any) -> None:
    """Below 75 ms its processor made no token of it."""
    prompt = tiny_audio.encoder.prompt("what is this?", [Sound(np.full(samples, 0.5, np.float32), 16_000)])
    heard = tiny_audio.encoder.role_of.media_ids["audio"]
    assert prompt.ids.count(heard) >= 1


def test_what_a_model_would_not_hear_is_left_out_by_name(
    tmp_path: Path, tiny_audio: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a model whose window is longer."""
    from atlas.live import media
    from ingest.job import make_job
    from ingest.run.encode_examples import ExampleEncoder

    monkeypatch.setattr(media, "SHORTEST", 0)
    dataset = audio.build(str(task_folders.audio(tmp_path)))
    asked: dict[str, Any] = {"concepts": ["dog"], "tasks": ["sound"], "per_concept": 1, "seed": 0}
    [example] = dataset.examples(source="audio", split="find", **asked)
    feed = ExampleEncoder(tiny_audio, dataset, make_job({"model": "tiny-audio"}))
    assert feed.prompt(example) is None
    assert feed.skipped.media[example.media[0]].endswith("is too short for tiny-audio, which makes no token of it")


# Tables


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tables_as_spreadsheets_write_them(tmp_path: Path, separator: str, encoding: str, newline: str) -> None:
    rows = [["File Name", " LABEL"], ["a.wav", '"a; long, one|\t"'], ["b.wav", "dög"]]
    text = newline.join(separator.join(row) for row in rows)
    (tmp_path / "x.csv").write_bytes(text.encode(encoding))
    found = [row for _, row in read_csv(tmp_path / "x.csv")]
    assert found == [
        {"file name": "a.wav", "label": "a; long, one|\t"},
        {"file name": "b.wav", "label": "dög"},
    ]


@pytest.mark.parametrize("header", ["File;Label", "FILENAME\tCategory", "path,CLASS"])
def test_a_folder_of_recordings_with_such_a_table(tmp_path: Path, header: str) -> None:
    separator = next(c for c in ";\t," if c in header)
    for n in range(10):
        task_folders.sound(tmp_path / f"{n}.wav")
    rows = [f"{n}.wav{separator}dog" for n in range(10)]
    (tmp_path / "clips.csv").write_text("\n".join([header, *rows]), encoding="utf-8-sig")
    assert list(audio.build(str(tmp_path)).concepts) == ["dog"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_of_another_encoding_says_what_to_do(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.csv").write_bytes("file,label\na.wav,dög\n".encode(encoding))
    with pytest.raises(UsageError, match=r"x.csv is not UTF-8 \(byte \d+\); save it in UTF-8"):
        read_csv(tmp_path / "x.csv")


def test_a_recording_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task_folders.sound(tmp_path / "x.wav")

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadMedia, match="x.wav cannot be read: Permission denied"):
        open_audio(tmp_path / "x.wav")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("file,label\na.wav,a dog, a cat\n", r"x.csv: line 2 has 3 cells for 2 columns"),
        ("file,file\na.wav,dog\n", "has two columns file"),
        ("file,label\n", "has no rows"),
        ("", "has no rows"),
        ('file,label\n"a.wav,dog\n', "is not a table"),
    ],
)
def test_a_table_that_would_be_misread(tmp_path: Path, content: str, match: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(UsageError, match=match):
        read_csv(tmp_path / "x.csv")

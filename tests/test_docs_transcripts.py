"""How closely transcripts are compared: what may differ and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest
import transcripts
from transcripts import close, compare, replay, steps_of


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("0.8047", "0.8049"),  # 2 %
        ("99.95", "99.96"),  # one unit in the last digit
        ("0.0", "0.1"),
        ("7.5e-65", "7.6e-65"),
        ("12", "12"),
    ],
)
def test_numbers_may_differ_by_rounding(written: str, printed: str) -> None:
    assert close(written, printed)


@pytest.mark.parametrize(
    ("written", "printed"), [("0.8047", "0.85"), ("12", "13"), ("7.5e-65", "8.0e-65"), ("0.2", "-0.2"), ("4", "40")]
)
def test_other_numbers_differ(written: str, printed: str) -> None:
    assert not close(written, printed)


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("952 maps from 468 examples in 25.6 s\n", "952 maps from 468 examples in 41.2 s\n"),
        ("asking took 0.3 s before, 0.3 s with it\n", "asking took 1.3 s before, 2 s with it\n"),
        (f"{'ab' * 16}\n", f"{'cd' * 16}\n"),
        ("0123abcd,edit,2026-11-30T01:58:26.451+00:00\n", "fedc4567,edit,2026-12-01T11:18:26+00:00\n"),
        ("layer   score\n-----  ------\n    3  0.1965\n", "layer  score\n-----  -----\n    3  0.196\n"),
    ],
)
def test_what_no_two_runs_share_may_differ(written: str, printed: str) -> None:
    compare(written, printed)


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("image  100.0% [13.9%, 100.0%]\n", "image  94.4% [13.9%, 100.0%]\n"),  # an answer tipped
        ("    3     265  0.1965     3\n", "    3     266  0.1965     3\n"),  # another neuron
        ("verdict: shared\n", "verdict: not shown\n"),
        ("tokens: dog\n", "tokens: dog cat\n"),
        ("dog-to-cat@1: 5 neurons\n", "dog-to-cat@2: 5 neurons\n"),
        ("one line\n", "one line\nanother\n"),
    ],
)
def test_everything_else_may_not(written: str, printed: str) -> None:
    with pytest.raises(AssertionError):
        compare(written, printed)


PAGE = """# A page

<!-- transcript: version -->
```console
$ atlas \\
    --version
{}
```

```python
print(6 * 7)
```

```text
{}
```

<!-- not run: it asks for nothing that is here -->
```python
1 / 0
```
"""


def page(folder: Path, version: str, answer: str) -> Path:
    file = folder / "page.md"
    file.write_text(PAGE.format(version, answer), encoding="utf-8")
    return file


def test_a_page_is_compared_or_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "UPDATE", False)
    known = {"--version": "neuron-atlas 1\n"}
    right = page(tmp_path, "neuron-atlas 1", "42")
    text = right.read_text(encoding="utf-8")
    replay(right, known)
    for wrong in (("neuron-atlas 2", "42"), ("neuron-atlas 1", "43")):
        with pytest.raises(AssertionError):
            replay(page(tmp_path, *wrong), known)
    monkeypatch.setattr(transcripts, "UPDATE", True)
    replay(page(tmp_path, "neuron-atlas 2", "43"), known)
    assert right.read_text(encoding="utf-8") == text


def test_a_command_over_two_lines_is_one(tmp_path: Path) -> None:
    first, second = steps_of("$ atlas query \\\n    --top 3\nrow\n\n$ atlas runs\n")
    assert (first.command, first.printed) == ("query --top 3", "row\n")
    assert (second.command, second.printed) == ("runs", "\n")

"""`atlas datasets NAME` without a folder says what the folder looks like."""

from __future__ import annotations

import json

import pytest

import ingest.datasets
from atlas import registry
from cli.main import main

SHIPPED = ("scenes", "photos", "facts")


@pytest.mark.parametrize("name", sorted({*registry.folder_names(ingest.datasets)} - {*SHIPPED}))
def test_a_dataset_without_its_path_shows_its_layout(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", name, "--format", "jsonl"]) == 0
    lines = [json.loads(row)["layout"] for row in capsys.readouterr().out.splitlines()]
    assert any(line.strip().startswith("PATH") for line in lines)


def test_cocos_layouts_are_all_named(capsys: pytest.CaptureFixture[str]) -> None:
    main(["datasets", "coco", "--format", "csv"])
    said = capsys.readouterr().out
    for part in ("annotations/instances*.json", "_annotations.coco.json", "result.json", "labels.json", "lvis*.json"):
        assert part in said


def test_a_dataset_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "coko"]) == 2
    assert "did you mean 'coco'" in capsys.readouterr().err

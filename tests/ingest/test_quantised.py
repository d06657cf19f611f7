"""A job on a model in 8 or 4 bits finds what it finds in the whole model, and its edits go on such a model."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlas.live.load.checkpoints import QUANTIZATIONS
from atlas.store import create, engine
from cli.main import main

JOB = "ingest --model tiny-llava --concepts dog,cat --sources text --per-concept 4 --reduce mean --no-progress"
METHODS = ("contribution", "ablation", "gradient_x_activation", "integrated_gradients", "knowledge_neurons")
METHODS += ("logprob_increase", "nam_text")


def run(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(shlex.split(command))
    return (code, *capsys.readouterr())


def scores(atlas: Path) -> dict[tuple[str, str], np.ndarray]:
    sql = """
    SELECT c.name AS concept, m.method, s.score FROM scores s JOIN maps m USING (map_id) JOIN concepts c
    USING (concept_id) ORDER BY concept, m.method, s.layer, s.neuron"""
    with engine.connect_readonly(atlas) as connection:
        rows = engine.raw(connection).sql(sql).fetchnumpy()
    keys = list(zip(rows["concept"].tolist(), rows["method"].tolist(), strict=True))
    return {key: rows["score"][[k == key for k in keys]] for key in set(keys)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("bits", "dtype"), [*((bits, "float32") for bits in QUANTIZATIONS), ("8bit", "bfloat16")])
def test_a_quantised_model_is_scored_and_edited(
    bits: str, dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    found: dict[str, Any] = {}
    for name, more in (("plain", ""), (bits, f"--quantization {bits} --dtype {dtype}")):
        create.init(tmp_path / name)
        code, _, err = run(f"{JOB} --methods {','.join(METHODS)} {more} --atlas {tmp_path / name}", capsys)
        assert code == 0, err
        found[name] = scores(tmp_path / name)
    assert found["plain"].keys() == found[bits].keys() and len(found[bits]) >= 2 * len(METHODS)
    for key, whole in found["plain"].items():
        if "knowledge_neurons" in key[1]:
            continue  # counts of prompts, many of them equal
        best = set(np.argsort(-whole)[:20].tolist()) & set(np.argsort(-found[bits][key])[:20].tolist())
        assert len(best) >= (17 if (bits, dtype) == ("8bit", "float32") else 12), key
    where = f"--atlas {tmp_path / bits}"
    assert run(f"edit create no-dog --concept dog --method contribution --top 40 --set 0 {where}", capsys)[0] == 0
    code, _, err = run(f"edit apply no-dog --prompt 'what does a dog do?' {where}", capsys)
    assert code == 2 and "not for these weights" in err
    code, out, err = run(
        f"edit apply no-dog --prompt 'what does a dog do?' --quantization {bits} --dtype {dtype} --json {where}", capsys
    )
    assert code == 0, err
    before, after = (row["answer"] for row in json.loads(out)["rows"])
    assert before == "barks" and after not in ("barks", "")
    code, _, err = run(f"index build --space direction {where}", capsys)
    assert code == 2 and "give the same --quantization" in err
    assert run(f"index build --space direction --quantization {bits} --dtype {dtype} {where}", capsys)[0] == 0


@pytest.mark.filterwarnings("ignore")
def test_maps_of_one_name_in_two_precisions_are_kept_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bitsandbytes")
    create.init(tmp_path / "both")
    where, ways = f"--atlas {tmp_path / 'both'}", ("--quantization 8bit", "")
    for how in ways:
        assert run(f"{JOB} --methods contribution {how} {where}", capsys)[0] == 0
    code, _, err = run(f"query --concept dog --method contribution {where}", capsys)
    assert code == 0 and "using fingerprint=" in err
    ask = "evaluate --model tiny-llava --method contribution --sources text --concepts dog --per-concept 1 --seeds 1"
    for how in ways:
        code, _, err = run(f"{ask} --no-progress {how} {where}", capsys)
        assert code == 0, err
    code, _, err = run(f"{ask} --no-progress --dtype float16 {where}", capsys)
    assert code == 2 and "of other weights" in err and "--dtype" in err

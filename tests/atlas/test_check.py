from pathlib import Path
from atlas.check import check


def test_a_sound_atlas_has_no_findings(filled: Path) -> None:
    assert [str(f) for f in check(filled)] == []

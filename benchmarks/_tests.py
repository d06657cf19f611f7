"""Makes the modules beside the tests importable: the tiny models of every family are theirs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

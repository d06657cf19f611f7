"""The shape of the project, as rules that a change cannot break unseen."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("atlas", "ingest", "cli")
MODULES = sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_layer_imports_one_above_it(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    above = LAYERS[LAYERS.index(layer) + 1 :]
    assert not {name for name in imported(path) if name.split(".")[0] in above}


def test_only_the_hooks_file_registers_hooks() -> None:
    using = {p for p in MODULES if re.search(r"register_(forward|full_backward|module)", p.read_text(encoding="utf-8"))}
    assert using == {ROOT / "atlas/live/hooks.py"}


def test_the_reading_half_of_atlas_never_imports_torch_or_the_live_half() -> None:
    for path in sorted(p for p in (ROOT / "atlas").rglob("*.py") if "live" not in p.relative_to(ROOT).parts):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module(
            [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], type_ignores=[]
        )  # inside a function is allowed: `StoredEdit.on` needs the live half
        names = {a.name for n in ast.walk(top) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in ast.walk(top) if isinstance(n, ast.ImportFrom)}
        assert not {n for n in names if n.split(".")[0] in ("torch", "transformers") or n.startswith("atlas.live")}, (
            path
        )


def test_the_migrations_folder_does_not_shadow_the_library() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_unsafe_format_is_read_or_written(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path == ROOT / "atlas" / "live" / "bake" / "convert.py":  # official checkpoints, of which it reads tensors alone
        assert len(re.findall(r"torch\.load\(", text)) == 1
        text = text.replace('torch.load(file, map_location="cpu", weights_only=True)', "")
    assert not re.search(
        r"\bpickle\b|torch\.(load|save)\(|allow_pickle=True|\bdill\b|\bjoblib\b|(?<!\.)\beval\(|(?<!\.)\bexec\(", text
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 310
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= 50, f"{node.name} has {lines} lines"


HEAVY = "{'torch', 'transformers', 'diffusers', 'sklearn', 'scipy'}"


@pytest.mark.parametrize(
    "program",
    [
        "import atlas, ingest, cli",
        "from atlas import Atlas",
        "from cli.main import main; main(['--help'])",
        "from cli.main import main; main(['query', '--help'])",
        "from cli.main import main; main(['db', 'path'])",
        "from cli.main import main; main(['query', '--concept', 'dog', '--atlas', ATLAS])",
        "from cli.main import main; main(['neuron', '1/5', '--atlas', ATLAS])",
        "from cli.main import main; main(['edit', 'ls', '--atlas', ATLAS])",
        "from cli.main import main; main(['labels', 'ls', '--atlas', ATLAS])",
        "from cli.main import main; main(['geometry', '--help'])",
        "from cli.main import main; main(['methods'])",
    ],
)
def test_reading_loads_neither_torch_nor_transformers(program: str, stored_atlas: Path) -> None:
    loaded = f"print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    program = f"import sys; ATLAS = {str(stored_atlas)!r}; {program}; {loaded}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.splitlines()[-1] == "[]"

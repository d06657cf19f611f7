"""The shape of the project, as rules that a change cannot break unseen."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    ("atlas.errors", "atlas.plugins", "atlas.missing_extra"),
    ("atlas.neurons", "atlas.token_roles", "atlas.registry", "atlas.capabilities"),
    ("atlas.store",),
    ("atlas.query",),
    ("atlas.stats", "atlas.vectors"),
    ("atlas.edits", "atlas.live"),
    ("atlas.questions",),
    ("atlas.figures", "atlas.maintain"),
    ("atlas.share",),
    ("ingest.data",),
    ("ingest.attribution", "ingest.datasets", "ingest.inpainters", "ingest.segmenters", "ingest.encoders"),
    ("ingest.methods", "ingest.zoo"),
    ("ingest.job",),
    ("ingest.draw",),
    ("ingest.run",),
    ("ingest.solve",),
    ("ingest.solvers", "ingest.evaluate"),
    ("ingest.metrics", "ingest.analyse", "ingest.embed"),
    ("ingest.label_rules",),
    ("ingest.requests",),
    ("ingest",),
    ("atlas.api",),
    ("atlas",),
    ("atlas.testing",),
    ("cli",),
)
"""Each package imports only what stands above it or in its row. `figures` may be absent: a name here need not exist."""

MUTUAL = {("atlas.edits", "atlas.live")}
"""Packages of one row that may import each other, though no two of their files do."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(p): p for layer in ("atlas", "ingest", "cli") for p in sorted((ROOT / layer).rglob("*.py"))}
PRODUCT = {module: path for module, path in MODULES.items() if not module.startswith("atlas.testing")}
"""All but the contract tests, which use torch and hooks of their own."""
EVERY_FILE = pytest.mark.parametrize("path", MODULES.values(), ids=MODULES.keys())


def imported(path: Path) -> set[str]:
    """Every module of ours that a file imports anywhere: inside functions and for type checkers too.

    An import of a registry's folder (`import ingest.methods`) names no file of it, so it is none.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in names if name in MODULES and MODULES[name].name != "__init__.py"}


def row_of(module: str) -> tuple[int, str]:
    """Where a module's package stands in the order."""
    for name in (".".join(module.split(".")[:2]), module.split(".")[0]):
        for number, row in enumerate(ORDER):
            if name in row:
                return number, name
    raise AssertionError(f"{module} belongs to no package of the order")


@EVERY_FILE
def test_a_package_imports_only_what_stands_before_it(path: Path) -> None:
    row, package = row_of(module_of(path))
    for name in imported(path):
        other_row, other = row_of(name)
        allowed = other_row < row or other == package or tuple(sorted((package, other))) in MUTUAL
        assert allowed, f"{package} imports {name}"


def test_the_order_names_every_package_once() -> None:
    names = [name for row in ORDER for name in row]
    assert len(names) == len(set(names))
    packages = {".".join(m.split(".")[:2]) for m in MODULES} - {m for m in MODULES if m.startswith("cli.")}
    assert packages <= set(names) | {"cli"}


def test_no_files_import_each_other_in_a_circle() -> None:
    waiting = {module: imported(path) - {module} for module, path in MODULES.items()}
    while free := [module for module, needs in waiting.items() if not needs & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting, f"in a circle, or above one: {sorted(waiting)}"


def test_the_files_that_make_a_package_are_empty() -> None:
    """All but these: the public names, and what must be set before torch is imported."""
    full = {
        module
        for module, path in MODULES.items()
        if path.name == "__init__.py" and any(not isinstance(n, ast.Expr) for n in ast.parse(path.read_text()).body)
    }
    assert full == {"atlas", "atlas.live", "atlas.live.families", "atlas.testing", "ingest", "ingest.zoo"}


def test_the_product_never_imports_its_contract_tests() -> None:
    for module, path in PRODUCT.items():
        assert not {name for name in imported(path) if name.startswith("atlas.testing")}, module


def test_only_the_hooks_file_registers_hooks() -> None:
    using = {
        p
        for p in PRODUCT.values()
        if re.search(r"register_(forward|full_backward|module)", p.read_text(encoding="utf-8"))
    }
    assert using == {ROOT / "atlas/live/hooks.py"}


HEAVY = {"torch", "transformers", "diffusers", "safetensors.torch"}


@pytest.mark.parametrize("module", [m for m in PRODUCT if m.startswith("atlas") and not m.startswith("atlas.live")])
def test_only_the_live_half_of_atlas_imports_torch(module: str) -> None:
    """Nor does a file import the live half but inside a function (`StoredEdit.on`) or for type checkers."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {name for name in names if name in HEAVY or name.split(".")[0] in HEAVY}
            assert node.col_offset or not any(name.startswith("atlas.live") for name in names)


def test_the_migrations_folder_does_not_shadow_the_library() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()
    packages = [file.parent for file in (ROOT / "tests").rglob("__init__.py")]
    assert packages == [ROOT / "tests" / "plugin_example" / "atlas_example"]  # which is installed, and never collected


@EVERY_FILE
def test_no_unsafe_format_is_read_or_written(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if (
        path == ROOT / "atlas" / "live" / "bake" / "torch_file.py"
    ):  # official checkpoints, of which it reads tensors alone
        assert len(re.findall(r"torch\.load\(", text)) == 1
        text = text.replace('torch.load(file, map_location="cpu", weights_only=True)', "")
    assert not re.search(
        r"\bpickle\b|torch\.(load|save)\(|allow_pickle=True|\bdill\b|\bjoblib\b|(?<!\.)\beval\(|(?<!\.)\bexec\(", text
    )


@EVERY_FILE
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 310
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= 50, f"{node.name} has {lines} lines"


SLOW = "{'torch', 'transformers', 'diffusers', 'sklearn', 'scipy'}"


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
    loaded = f"print(sorted({SLOW} & set(sys.modules)), file=sys.stderr)"
    program = f"import sys; ATLAS = {str(stored_atlas)!r}; {program}; {loaded}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.splitlines()[-1] == "[]"

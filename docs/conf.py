"""How Sphinx builds this site: MyST pages, the furo theme, and nothing from the network, neither here nor in a browser.

Sphinx with MyST is maintained (Sphinx 9.2 in October 2026, MyST 5.2 in November 2026), reads docstrings, and with
`-W -n` fails on a broken link or an unknown name. MkDocs has had no release since August 2024, and its successors
are younger than what they would have to build here.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import docstrings  # noqa: E402 - they lie beside this file
import generated  # noqa: E402

project = "Neuron atlas"
author = "The neuron atlas contributors"
copyright = author
version = release = installed("neuron-atlas")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # DuckDB's SQL has more than the highlighter knows

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = project
html_static_path: list[str] = []
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"

smartquotes = False  # two hyphens before an option stay two
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
# Types of other libraries, whose documentation this site does not fetch, and of ours that no page documents.
nitpick_ignore_regex = [("py:.*", pattern) for pattern in generated.UNDOCUMENTED]


def _inline_formula(translator: Any, node: nodes.math) -> None:
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _formula(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode


def _by_last_name(app: Sphinx, env: Any, node: Any, content: Any) -> Any:
    """A class that a docstring calls by its last name alone, where one class on these pages has it."""
    if node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    names = {
        d.docname + d.node_id: name for name, d in domain.objects.items() if name.split(".")[-1] == node["reftarget"]
    }
    if len(names) != 1:
        return None
    (name,) = names.values()
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_formula, None))  # browsers draw MathML themselves
    app.connect("source-read", lambda app, name, source: source.__setitem__(0, generated.filled(source[0])))
    app.connect("autodoc-process-docstring", docstrings.processed)
    app.connect("missing-reference", _by_last_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

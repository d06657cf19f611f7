"""Contract tests of registry entries, for the atlas's own and for plug-ins: each raises `ContractError`, whose message
names the entry and the fault, and returns None where the entry keeps its contract.

    from atlas.testing import check_method

    def test_my_method():
        check_method(my_package.my_method)

They need the packages that attribution needs and no test runner. This is the only package of `atlas` that imports
`ingest`, and only tests import it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.testing.contract import ContractError as ContractError
    from atlas.testing.datasets import check_dataset as check_dataset
    from atlas.testing.families import check_family as check_family
    from atlas.testing.figures import check_figure as check_figure
    from atlas.testing.methods import check_method as check_method
    from atlas.testing.metrics import check_metric as check_metric
    from atlas.testing.solvers import check_solver as check_solver

_MODULE_OF = {
    "ContractError": "contract",
    "check_dataset": "datasets",
    "check_family": "families",
    "check_figure": "figures",
    "check_method": "methods",
    "check_metric": "metrics",
    "check_solver": "solvers",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"atlas.testing.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'atlas.testing' has no attribute '{name}'")

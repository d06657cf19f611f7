"""The contract of a model family (`atlas.live.families`), on a tiny random model of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch

from atlas.errors import Unsupported
from atlas.live import families
from atlas.live.families._family import Family
from atlas.live.model import LiveModel
from atlas.testing import family_passes, family_values
from atlas.testing.contract import ContractError
from atlas.testing.subjects import NotApplicable, Subject

CHECKS: dict[str, Callable[[Subject], None]] = {
    "load": family_passes.loads,
    "locate": family_values.locates,
    "trace_product": family_values.traces_product,
    "trace_gate": family_values.traces_gate,
    "logits": family_values.agrees,
    "decode": family_values.decodes,
    "direct_effects": family_values.adds_up,
    "gradient": family_values.differentiates,
    "attention": family_values.attends,
    "restart": family_passes.restarts,
    "restart_tail": family_passes.restarts_tail,
    "answer_unseen": family_passes.sees_no_answer,
    "edit": family_passes.edits,
    "edit_roles": family_passes.edits_roles,
    "bake": family_passes.bakes,
    "generate": family_passes.generates,
    "generate_with_edit": family_passes.generates_edited,
    "text": family_passes.reads_text,
    "image": lambda subject: family_passes.has_role(subject, "image"),
    "audio": lambda subject: family_passes.has_role(subject, "audio"),
    "video": lambda subject: family_passes.has_role(subject, "video"),
}
"""Name -> a check, which raises NotApplicable where the family has no such feature, Unsupported where it is
refused, and AssertionError where a number is wrong. Tests of the families that draw check `image_output`."""


def check_family(
    module_or_family: ModuleType | Family,
    build: Callable[[], tuple[Any, Any]],
    *,
    kind: str = "image",
    unsupported: Sequence[str] = (),
) -> None:
    """Check a model family, given as its module or its `FAMILY`, on a tiny random model.

    Neuron values, logits, decodings, gradients, attention, edits, restarts and generation are compared with independent
    computations; a batch with padding gives what each prompt alone gives.

    build: makes the model and its processor, of the configuration's own classes, with two layers of 64 neurons and a
    hidden size of 32. kind: the medium that its prompts have, "text" for none. unsupported: names of CHECKS that it may
    refuse.

    Raises:
        RuntimeError: Python runs without asserts.
        ContractError: the family breaks its contract; the message names the model type, the check and the fault.
    """
    if not __debug__:
        raise RuntimeError("the checks of families use asserts; run Python without -O")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = build()
    name = str(getattr(model.config, "model_type", ""))
    family = getattr(module_or_family, "FAMILY", None) if isinstance(module_or_family, ModuleType) else module_or_family
    if not isinstance(family, Family):
        raise ContractError(f"{name}: its module has no FAMILY that is an atlas.live.families._family.Family")
    if families.of(model.config) != family:
        raise ContractError(f"{name}: a model of this type has another family; name the entry '{name}'")
    subject = Subject(name, kind, LiveModel(model, processor, name=name))
    for check, run in CHECKS.items():
        try:
            run(subject)
        except NotApplicable:
            continue
        except Unsupported as refusal:
            if check not in unsupported:
                raise ContractError(f"{name}: {check} is refused: {refusal}") from refusal
        except AssertionError as error:
            line = traceback.extract_tb(error.__traceback__)[-1].line
            raise ContractError(f"{name}: {check} fails: {str(error).strip() or line}") from error

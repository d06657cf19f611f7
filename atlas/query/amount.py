"""How many neurons: a number of them, or a share of all: 40, "40" or "1%"."""

from __future__ import annotations

from math import floor

from atlas.errors import UsageError
from atlas.query.selection_rules import Rule


def size(share: float, neurons: int) -> int:
    """The number of neurons that a share of `neurons` comes to, at least one."""
    return max(1, floor(share * neurons + 0.5))


def size_sql(neurons: str, share: str) -> str:
    """`size` in SQL."""
    return f"greatest(1, floor({share} * {neurons} + 0.5))"


def rule_of(amount: int | str, name: str = "top") -> Rule:
    """The rule that chooses so many of each map.

    Raises:
        UsageError: neither a number of neurons nor a share; the message names the field.
    """
    text = str(amount).strip()
    try:
        if text.endswith("%"):
            percent = float(text.removesuffix("%"))
            if 0 < percent <= 100:
                return Rule("share", percent)
        elif int(text) >= 1:
            return Rule("top", float(int(text)))
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"[[{name}]]: {text} is not a number of neurons, at least 1, or a share of them; write 40, or 2%")


def count_of(amount: int | str, neurons: int, name: str = "top") -> int:
    """How many that is where there are `neurons` neurons; a number may be larger.

    Raises:
        UsageError: neither a number nor a share.
    """
    rule = rule_of(amount, name)
    return size(rule.amount / 100, neurons) if rule.name == "share" else int(rule.amount)

"""At which token positions an edit acts: roles, positions of the prompt, and the phase of generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atlas.errors import UsageError
from atlas.token_roles import ROLES, UNIONS

PHASES = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Positions:
    """The positions that an edit changes; everything where nothing is said.

    roles: what the tokens are (ROLES). spans: places in the prompt as Python writes them, `-1` or `2:5`, counted
    without padding. phase: "prefill", the prompt's positions, or "decode", those of the answer. With the KV cache a
    generated token passes alone, after the prompt: what acts on the prompt acts at prefill, later through the cache.

    Raises:
        UsageError: an unknown role or phase, a span that is none, or spans of an answer.
    """

    roles: tuple[str, ...] = ()
    spans: tuple[str, ...] = ()
    phase: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", _roles(self.roles))
        for span in self.spans:
            as_slice(span)
        if self.phase not in (None, *PHASES):
            raise UsageError(f"[[where]] phase={self.phase} is neither {' nor '.join(PHASES)}")
        if self.spans and self.phase == "decode":
            raise UsageError("[[where]] position counts in the prompt; phase=decode has none of its positions")

    def __str__(self) -> str:
        """The form that is stored and that `parse` reads: `all`, or `role=image;position=-1;phase=prefill`."""
        parts = [f"role={','.join(self.roles)}"] if self.roles else []
        parts += [f"position={','.join(self.spans)}"] if self.spans else []
        parts += [f"phase={self.phase}"] if self.phase else []
        return ";".join(parts) or "all"

    @classmethod
    def parse(cls, text: str) -> Positions:
        """Read `all`, `role=image,text`, `position=-1,2:5`, `phase=prefill`, or several with `;` between them.

        Raises:
            UsageError: anything else.
        """
        values_by_key: dict[str, tuple[str, ...]] = {}
        for part in [] if text.strip() in ("", "all") else text.split(";"):
            key, equals, value = part.strip().partition("=")
            if not equals or key not in ("role", "position", "phase") or key in values_by_key:
                raise UsageError(
                    f"'{part}' is not a place for [[where]]; write role=image,text, position=-1,2:5 or phase=prefill"
                )
            values_by_key[key] = tuple(item.strip() for item in value.split(","))
        phase = ",".join(values_by_key["phase"]) if "phase" in values_by_key else None
        return cls(values_by_key.get("role", ()), values_by_key.get("position", ()), phase)


def _roles(names: Sequence[str]) -> tuple[str, ...]:
    """The names, unions spelled out, in one order."""
    for name in names:
        if name not in (*ROLES[1:], *UNIONS):
            raise UsageError(f"no token role called '{name}'; there are: {', '.join((*ROLES[1:], *UNIONS))}")
    roles = {role for name in names for role in UNIONS.get(name, (name,))}
    return tuple(role for role in ROLES if role in roles)


def as_slice(span: str) -> slice:
    """`3` or `-1` as the slice of one position, `2:5` and `-3:` as Python's.

    Raises:
        UsageError: neither.
    """
    first, colon, last = span.partition(":")
    try:
        if colon:
            return slice(int(first) if first else None, int(last) if last else None)
        at = int(first)
        return slice(at, at + 1 if at != -1 else None)
    except ValueError:
        raise UsageError(f"'{span}' is not a position of a prompt; write 0, -1, 2:5 or -3:") from None


EVERYWHERE = Positions()

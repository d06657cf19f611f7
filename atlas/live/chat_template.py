"""A model's chat text: a user's turn, its media and an answer, rendered by the chat template."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from atlas.errors import AtlasWarning, UsageError
from atlas.live.load.load_errors import first_line

PROBE = "what the user says"
PARTS, PLAIN = "parts", "plain"
"""Forms of a turn's content that templates read: a list of parts, or a text with the placeholders in it."""


class Chat:
    """A processor, or a tokenizer, and its chat template where it has one."""

    def __init__(self, processor: Any, tokenizer: Any):
        self.processor = processor
        sources = (processor, tokenizer)
        self.template = next((source for source in sources if getattr(source, "chat_template", None)), None)
        self._usual = (PLAIN, PARTS) if self.template is tokenizer else (PARTS, PLAIN)

    def render(self, prompt: str, kinds: Sequence[str] = (), answer: str | None = None) -> str:
        """The model's chat text: the user's turn, its media first, and with an answer everything up to its end.

        Raises:
            UsageError: the chat template cannot be rendered, or leaves out the user's text.
        """
        if self.template is None:
            text = self._placeholders(kinds) + prompt
            return text if answer is None else f"{text} {answer}"
        turns = [{"role": "user", "content": self._content(self._form, prompt, kinds)}]
        text = self._applied(turns, add_generation_prompt=True)
        if answer is None:
            return text
        turns.append({"role": "assistant", "content": self._content(self._form, answer)})
        full = self._applied(turns)
        # The first occurrence: what the template puts behind the answer ("</s>") may have its letters too.
        at = full.find(answer, len(text))
        if full.startswith(text) and at >= 0:
            return full[: at + len(answer)]
        return f"{text} {answer}" if not text.endswith((" ", "\n")) else f"{text}{answer}"

    def _applied(self, turns: list[dict[str, Any]], **options: Any) -> str:
        assert self.template is not None
        # A tokenizer, unlike a processor, returns token ids by default.
        return str(self.template.apply_chat_template(turns, tokenize=False, **options))

    @cached_property
    def _form(self) -> str:
        """The form that the template reads: given the other, it leaves the text out, or prints the list."""
        reason = ""
        for form in self._usual:
            try:
                text = self._applied([{"role": "user", "content": self._content(form, PROBE)}])
            except Exception as error:  # a template is a program of the checkpoint's, and may raise anything
                reason = reason or f": {first_line(error)}"
                continue
            if PROBE in text and "'type'" not in text:
                return form
        raise UsageError(
            f"this model's chat template leaves out the user's text{reason}; put the template that was saved with the "
            "model beside it (chat_template.jinja, or in tokenizer_config.json)"
        )

    def _placeholders(self, kinds: Sequence[str]) -> str:
        """What stands for media where there is no template; a Q-Former's processor writes its queries itself."""
        if getattr(self.processor, "num_query_tokens", None):
            return ""
        return "".join(str(getattr(self.processor, f"{kind}_token", "")) for kind in kinds)

    def _content(self, form: str, text: str, kinds: Sequence[str] = ()) -> str | list[dict[str, str]]:
        if form == PLAIN:
            return self._placeholders(kinds) + text
        return [{"type": kind} for kind in kinds] + [{"type": "text", "text": text}]


def warn_without_template(name: Any, processor: Any) -> None:
    """Warn of a model without a chat template: most often a base model, which was not trained on turns."""
    if Chat(processor, getattr(processor, "tokenizer", processor)).template is None:
        warnings.warn(
            f"'{name}' has no chat template: it is given the plain text of a prompt, without turns (a base model?)",
            AtlasWarning,
            stacklevel=3,
        )

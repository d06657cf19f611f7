"""A live HuggingFace model, with its neurons located and its words and pictures encoded."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atlas.errors import AtlasWarning, Unsupported
from atlas.live.compiled import unwrap_compiled
from atlas.live.encode import Batch, Encoder, Prompt
from atlas.live.finite import FiniteLogits
from atlas.live.layout import Layout, locate
from atlas.live.load.checkpoints import Loading, commit_of, load, quiet, takes
from atlas.live.load.completeness import check_finite
from atlas.live.load.fingerprint import configuration, fingerprint
from atlas.live.load.load_errors import explain_load_errors
from atlas.live.matmul import calling
from atlas.live.media import IMAGE, Medium
from atlas.live.prompt_fit import explain_pass_errors
from atlas.live.token_positions import answers_from

if TYPE_CHECKING:
    from atlas.live.draw.drawer import Drawer

_LOWEST = torch.finfo(torch.float32).min / 2


class LiveModel:
    """A model ready to be traced, edited and asked.

    `name` and `revision` tell where it came from (a HuggingFace id and commit, or a folder); `fingerprint`
    identifies its weights.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        name: str,
        revision: str | None = None,
        folder: Path | None = None,
    ):
        model = unwrap_compiled(model)
        check_finite(model)
        self.model: Any = model.eval().requires_grad_(False)
        config: Any = model.config
        self.encoder = Encoder(processor, config)
        self.layout: Layout = locate(model)
        if not self.layout.layers:
            raise Unsupported(f"{name} has no decoder layers; check num_hidden_layers in its config.json")
        self.name = name
        self.revision = revision
        self._folder = folder
        arguments = inspect.signature(model.forward).parameters
        self._keep = {"logits_to_keep": 1} if "logits_to_keep" in arguments else {}
        self._cap = getattr(config.get_text_config(decoder=True), "final_logit_softcapping", None)
        self._unsaid = self._never_said()
        self._checked = False
        pixels = arguments.get("pixel_values")
        self._needs_picture = pixels is not None and pixels.default is pixels.empty

    @classmethod
    def load(cls, name: str | Path, *, label: str | None = None, **options: Any) -> LiveModel:
        """Load a stock HuggingFace checkpoint: a folder, a GGUF file, or a hub id at a revision.

        label: the name to record instead of the folder's. options: see `atlas.live.load.checkpoints.Loading` (revision,
        device, dtype, device_map, quantization, attention, trust_remote_code).

        Raises:
            UsageError: no such model, one whose files are damaged or incomplete, or an unknown dtype.
            Unsupported: its neurons cannot be located, or this machine has no such device.
        """
        model, processor, _ = load(name, Loading(**options))
        place = Path(name)
        folder = place if place.is_dir() else place.parent if place.is_file() else None
        commit = None if folder is not None else commit_of(str(name), options.get("revision"))
        with explain_load_errors(name):
            return cls(model, processor, name=label or str(name), revision=commit, folder=folder)

    @property
    def of_hub(self) -> bool:
        """Whether it was not loaded from a folder."""
        return self._folder is None

    @property
    def folder(self) -> Path:
        """The model's folder on this machine.

        Raises:
            Unsupported: it was not loaded from a folder.
        """
        if self._folder is None:
            raise Unsupported(
                f"{self.name} was not loaded from a folder, and its other parts are needed; give its folder"
            )
        return self._folder

    @cached_property
    def drawer(self) -> Drawer:
        """What it draws pictures with.

        Raises:
            Unsupported: it draws no pictures, or a package for drawing is missing.
        """
        make = self.encoder.family.drawer
        if make is None:
            raise Unsupported(f"{self.name} draws no pictures; ask for text, or choose a model that draws")
        made: Drawer = make(self)
        return made

    @property
    def takes(self) -> frozenset[str]:
        """ "text", and the kinds of media that it can be shown."""
        return takes(self.model.config)

    @property
    def device(self) -> torch.device:
        """Where the first layer runs, which need not be where its weights are kept."""
        for module in self.layout.layers[0].modules():
            runs = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
            if runs is not None:
                return torch.device(runs)
        return next(self.layout.layers[0].parameters()).device

    @property
    def fingerprint(self) -> str:
        """64 hex digits of the weights; recomputed after an in-place change of a weight."""
        return fingerprint(self.model)

    @cached_property
    def configuration(self) -> str:
        """64 hex digits of the config, tokenizer, chat template and picture settings."""
        return configuration(self.model, self.encoder.processor)

    @property
    def identity(self) -> dict[str, str]:
        """What determines this model's numbers: weights, configuration, and the precision they are loaded in."""
        return {"fingerprint": self.fingerprint, "configuration": self.configuration, "dtype": self.dtype}

    @cached_property
    def dtype(self) -> str:
        """The precision of the unembedding: "float32", "bfloat16" or "float16"."""
        return str(self.layout.unembedding().dtype).removeprefix("torch.")

    def batch(self, prompts: Sequence[Prompt], *, left: bool = False) -> Batch:
        """Pad prompts into one batch on the model's device: see `Encoder.batch`."""
        return self.encoder.batch([self._tokenised(p) for p in prompts], self.device, left=left)

    def _never_said(self) -> Tensor | None:
        """(vocabulary,) bool: the tokens that the model itself rules out; None where there are none."""
        if not self.encoder.family.masks_pictures:
            return None
        never = torch.zeros(self.layout.vocabulary, dtype=torch.bool)
        never[list(self.encoder.family.picture_ids(self.model.config))] = True
        return never

    def _tokenised(self, prompt: Prompt) -> Prompt:
        """The prompt with its pictures' tokens in place of their placeholders, where the family needs it."""
        tokens_of = self.encoder.family.picture_tokens
        if tokens_of is None or "pixel_values" not in prompt.extras:
            return prompt
        tokens = iter(tokens_of(self.model, prompt.extras).tolist())
        place = self.encoder.role_of.media_ids[IMAGE]
        return Prompt(tuple(next(tokens) if i == place else i for i in prompt.ids), prompt.answer)

    def forward(self, batch: Batch) -> Tensor:
        """One teacher-forced pass, for a `tracing` or `editing` block around it; other logits are left to the caller.

        Raises:
            Unsupported: the model's own code fails: its settings do not match each other or the prompt.

        Returns:
            (batch, 1 or position, vocabulary) logits, of the last position where the model can leave out the others.
        """
        inputs = self._embedded(batch.inputs)
        with answers_from(batch.starts), explain_pass_errors():
            out = self._reader(inputs)(**inputs, **self._keep, use_cache=False)
        return out.logits  # type: ignore[no-any-return]

    def _embedded(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs, as embeddings where they have tokens that are not words (pictures of Janus)."""
        embed, ids = self.encoder.family.embed, inputs["input_ids"]
        if embed is None or not bool((ids >= self.layout.vocabulary).any()):
            return inputs
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        return {**rest, "inputs_embeds": embed(self.model, ids)}

    def check_logits(self, norm_out: Tensor, logits: Tensor) -> None:
        """Check once that `logits` of the final norm's output equal the logits of the model's own pass.

        Raises:
            Unsupported: the model does more after its unembedding than is known here.
        """
        if self._checked:
            return
        # A ruled-out token has a meaningless logit.
        recomputed, of_pass = (
            values[:, -1].detach().float().clamp(-1e4) for values in (self.logits(norm_out[:, -1:]), logits)
        )
        if (recomputed - of_pass).abs().max() > 0.02 * of_pass.abs().max() + 1e-3:
            name = type(self.model).__name__
            raise Unsupported(f"{name} changes its logits after the unembedding in a way that is not known here")
        self._checked = True

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., vocabulary) float32 from the final norm's output, (..., d_model), in its precision or in float32."""
        scores: Tensor = calling(self.layout.head, hidden).float()
        if self._cap:
            scores = self._cap * torch.tanh(scores / self._cap)
        return scores if self._unsaid is None else scores.masked_fill(self._unsaid.to(scores.device), _LOWEST)

    def _reader(self, inputs: Mapping[str, Tensor]) -> Any:
        """What reads a batch: the model; its language model where it requires a picture and has none (BLIP-2)."""
        return self.model.language_model if self._needs_picture and "pixel_values" not in inputs else self.model

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 50, names: Sequence[str] = ()
    ) -> list[list[int]]:
        """Greedy answers with the KV cache: the new token ids of each prompt, without the end token.

        names: what an error calls the prompts.

        Raises:
            NotFinite: the logits of an answer are NaN or infinite.
            UsageError: a prompt leaves an answer no room in the model's context.
        """
        batch = self.batch(prompts, left=True)
        reader = self._reader(batch.inputs)
        stop = reader.generation_config.eos_token_id
        ends = stop if isinstance(stop, list) else [stop]
        if not all(isinstance(end, int | None) for end in ends):
            raise Unsupported(f"the model's generation_config.json ends answers at {stop!r}, which is not a token id")
        length = batch.inputs["input_ids"].shape[1]
        room = self.encoder.fit.room(length, max_new_tokens)
        with quiet(), explain_pass_errors():  # Janus warns of deprecation at every call
            out = reader.generate(
                **batch.inputs,
                max_new_tokens=room,
                do_sample=False,
                pad_token_id=self.encoder.pad_id,
                # Placeholders are not words; an answer with one could not be read again.
                suppress_tokens=sorted(self.encoder.role_of.media_ids.values()) or None,
                logits_processor=[finite := FiniteLogits()],
            )
        finite.check(names or [f"prompt {i + 1}" for i in range(len(prompts))], self.dtype)
        answers = []
        for row in out[:, length:].tolist():
            end = next((i for i, token in enumerate(row) if token in ends), len(row))
            answers.append(row[:end])
        cut = sum(len(answer) == room for answer in answers) if room < max_new_tokens else 0
        if cut:
            warnings.warn(
                f"{cut} of {len(answers)} answers were cut where the model's context of {length + room:,} tokens ends",
                AtlasWarning,
                stacklevel=2,
            )
        return answers

    def ask(self, prompt: str, media: Sequence[Medium] = (), *, max_new_tokens: int = 50) -> str:
        """The model's greedy answer, as text."""
        ids = self.generate([self.encoder.prompt(prompt, media)], max_new_tokens=max_new_tokens)[0]
        return self.encoder.decode(ids).strip()

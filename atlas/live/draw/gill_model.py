"""GILL (Koh, Fried, Salakhutdinov 2023, arXiv 2305.17216) as a transformers model: it sees, answers and draws.

A frozen language model (OPT) reads a picture as a few visual tokens and answers in words or with the eight tokens
[IMG0] to [IMG7], whose last hidden states a small transformer turns into the prompt of a diffusion model (see
`atlas.live.draw.diffusion`). The layout is that of github.com/kohjingyu/gill; its retrieval head and its decision
between drawing and retrieving are left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import CausalLMOutputWithPast

from atlas.errors import UsageError
from atlas.live.layer_call import CACHES

IMG_TOKENS = 8


class GillConfig(PreTrainedConfig):
    """GILL's configuration.

    visual_tokens: tokens that a picture becomes. image_token_id: its placeholder in input_ids, repeated that often.
    img_token_ids: ids of [IMG0], [IMG1], ...; by default the last eight of the vocabulary. The mapper's sizes are by
    default the official ones: a transformer of `mapper_width` with `mapper_queries` learned queries, whose outputs are
    the prompt's (queries, prompt_width).
    """

    model_type = "gill"
    sub_configs_defaults = {  # noqa: RUF012
        "text_config": SubConfigSpec(AutoConfig, model_type="opt"),
        "vision_config": SubConfigSpec(CLIPVisionConfig),
    }

    text_config: Any = None
    vision_config: Any = None
    visual_tokens: int = 4
    image_token_id: int = 50265
    img_token_ids: list[int] | None = None
    mapper_width: int = 512
    mapper_encoder_layers: int = 4
    mapper_decoder_layers: int = 4
    mapper_heads: int = 4
    mapper_ffn_dim: int = 2048
    mapper_queries: int = 77
    prompt_width: int = 768
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False  # the language model's own config says whether its embeddings are tied

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if self.img_token_ids is None:
            vocabulary = self.get_text_config().vocab_size
            self.img_token_ids = list(range(vocabulary - IMG_TOKENS, vocabulary))


class GillMapper(nn.Module):
    """From the states at [IMG0..7] to a diffusion prompt (GILL, section 3.2; module names as in the official code)."""

    def __init__(self, config: GillConfig) -> None:
        super().__init__()
        width, heads = config.mapper_width, config.mapper_heads
        self.fc = nn.Linear(config.get_text_config().hidden_size, width)
        options: dict[str, Any] = {"dim_feedforward": config.mapper_ffn_dim, "dropout": 0.0, "batch_first": True}
        # As nn.Transformer makes it by itself, but without its warning that nested tensors are of no use here.
        layer = nn.TransformerEncoderLayer(width, heads, norm_first=True, **options)
        encoder = nn.TransformerEncoder(
            layer, config.mapper_encoder_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.tfm = nn.Transformer(
            width,
            heads,
            num_decoder_layers=config.mapper_decoder_layers,
            custom_encoder=encoder,
            norm_first=True,
            **options,
        )
        self.query_embs = nn.Parameter(torch.randn(1, config.mapper_queries, width))
        self.model = nn.Linear(width, config.prompt_width)

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """(batch, queries, prompt_width) from (batch, 8, d_model) states and the tokens' (8, d_model) embeddings."""
        queries = self.query_embs.expand(len(states), -1, -1)
        prompt: Tensor = self.model(self.tfm(self.fc(states + embeddings), queries))
        return prompt


class PictureTokens(LogitsProcessor):
    """Of the [IMG] tokens only the first can be chosen; once it is, the others follow one after another."""

    def __init__(self, img_token_ids: list[int]) -> None:
        self.ids = img_token_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, self.ids[1:]] = -torch.inf
        if input_ids.shape[1] == 0:  # a prompt given as embeddings
            return scores
        for token, following in zip(self.ids, self.ids[1:], strict=False):
            drawing = input_ids[:, -1] == token
            scores[drawing] = -torch.inf
            scores[drawing, following] = 0.0
        return scores


class GillForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The language model, the vision tower and the mapper, whose output `Painter` draws."""

    config_class = GillConfig
    base_model_prefix = "gill"
    input_modalities = ("image", "text")  # type: ignore[assignment]
    _no_split_modules = ["OPTDecoderLayer", "CLIPEncoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = list(CACHES)  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: GillConfig) -> None:
        super().__init__(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.vision_tower = CLIPVisionModel(config.vision_config)
        width = config.get_text_config().hidden_size
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.visual_tokens * width)
        self.mapper = GillMapper(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, GillMapper):
            init.normal_(module.query_embs)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()  # type: ignore[no-any-return]

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()  # type: ignore[no-any-return]

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self, modality: str | None = None) -> nn.Module:
        return self.language_model.get_decoder()  # type: ignore[no-any-return]

    def visual_embeds(self, pixel_values: Tensor) -> Tensor:
        """(pictures, visual_tokens, d_model) from (pictures, 3, height, width)."""
        pooled = self.vision_tower(pixel_values=pixel_values).pooler_output
        embeds: Tensor = self.visual_projection(pooled).unflatten(-1, (self.config.visual_tokens, -1))
        return embeds

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """The language model's output. pixel_values: (pictures, 3, height, width) for the placeholders in input_ids.

        Raises:
            UsageError: pictures and placeholders do not match, or pictures without input_ids.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            inputs_embeds = self._with_pictures(inputs_embeds, input_ids, pixel_values)
        out: CausalLMOutputWithPast = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        return out

    def _with_pictures(self, embeds: Tensor, input_ids: Tensor | None, pixel_values: Tensor) -> Tensor:
        if input_ids is None:
            raise UsageError("GILL places pictures by their placeholders in input_ids; give input_ids")
        places = input_ids == self.config.image_token_id
        visual = self.visual_embeds(pixel_values).to(embeds)
        if places.sum() != visual.shape[0] * visual.shape[1]:
            raise UsageError(
                f"{len(visual)} pictures are {visual.shape[0] * visual.shape[1]} visual tokens, but input_ids has "
                f"{int(places.sum())} placeholders"
            )
        return embeds.masked_scatter(places[..., None].expand_as(embeds), visual)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]
        if not kwargs.get("is_first_iteration", False) and kwargs.get("use_cache", True):
            inputs.pop("pixel_values", None)  # the cache has them
        return inputs

    def generate(  # type: ignore[override]
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Like any model's `generate`, with [IMG1..7] forced after [IMG0] (GILL, section 3.3)."""
        processors = LogitsProcessorList([*(logits_processor or ()), PictureTokens(self.config.img_token_ids)])
        return super().generate(inputs, generation_config, processors, **kwargs)  # type: ignore[misc]

    def image_states(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        """(batch, 8, d_model): the states at the [IMG] tokens of each row's last picture.

        hidden: (batch, position, d_model) after the final norm, `hidden_states[-1]` of OPT. input_ids: (batch,
        position), the model's input for them.

        Raises:
            UsageError: a row has no [IMG0], or not the seven others after it.
        """
        ids = torch.tensor(self.config.img_token_ids, device=input_ids.device)
        runs = (input_ids.unfold(1, len(ids), 1) == ids).all(-1) if input_ids.shape[1] >= len(ids) else ids[:0]
        if runs.ndim < 2 or not runs.any(1).all():
            raise UsageError("no picture in a row: it needs [IMG0] to [IMG7], one after another")
        last = runs.shape[1] - 1 - runs.flip(1).int().argmax(1)
        places = last[:, None] + torch.arange(len(ids), device=last.device)
        return hidden[torch.arange(len(hidden), device=last.device)[:, None], places]

    def prompt_embeds(self, states: Tensor) -> Tensor:
        """(batch, queries, prompt_width) from `image_states`: the diffusion model's prompt, in place of a caption."""
        ids = torch.tensor(self.config.img_token_ids, device=states.device)
        prompt: Tensor = self.mapper(states, self.get_input_embeddings()(ids))
        return prompt

    @torch.no_grad()
    def imagine(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        """(batch, queries, prompt_width) of the last picture in each row, generated or written.

        inputs: attention_mask where rows are padded, pixel_values where they have pictures.
        """
        out = self(input_ids=input_ids, **inputs, use_cache=False, output_hidden_states=True, logits_to_keep=1)
        return self.prompt_embeds(self.image_states(out.hidden_states[-1], input_ids))


class GillProcessor(ProcessorMixin):
    """A picture processor and a tokenizer. One "<image>" in a text becomes `visual_tokens` placeholders."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        visual_tokens: int = 4,
        image_token: str = "<image>",
        chat_template: str | None = None,
    ) -> None:
        self.visual_tokens = visual_tokens
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        return self.image_token * self.visual_tokens


def register() -> None:
    """Register GILL with the Auto classes of transformers; may be called repeatedly."""
    AutoConfig.register(GillConfig.model_type, GillConfig, exist_ok=True)
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto.register(GillConfig, GillForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(GillConfig, GillProcessor, exist_ok=True)

"""Gato as a transformers model: configuration, embedding, transformer, masked next-token loss.

It sees ids, patches and positions, never an episode, a task name or a tokenizer. The head and the
loss are computed at target positions only. Importing this module registers it with the Auto classes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, GenerationMixin
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation.logits_process import LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import ModelOutput

from gato.layers.compact import ActionHead, NumberEmbedding, initialise
from gato.layers.embedding import Embedding, PatchEmbedder, PatchPool, TokenTable, smooth_rows
from gato.layers.head import Suppress, weighted_loss
from gato.layers.inputs import attention_layout, check_inputs, find_targets, refuse_unsupported
from gato.layers.numbers import Numbers, number_arrays
from gato.layers.slots import SlotReader
from gato.layers.transformer import Attention, Block, PositionScheme, Transformer, document_blocks

from .batch import NO_LOCAL
from .config import GatoConfig
from .digests import renew_model
from .libraries import cache_name
from .spec import NUM_BINS

CACHES = (None, "dynamic", "offloaded")  # of transformers' that grow with the text
MAX_NEW_TOKENS = 32  # of a generation that names no number


@dataclass
class GatoOutput(ModelOutput):
    """- `loss`: weighted sum of the target losses over the denominator, if labels were given.
    - `logits` (B, L or kept, vocab_size): in training only without labels, and not where `target_index` says what is wanted.
    - `cache`: the keys and values so far; transformers before 5.24 calls it `past_key_values`.
    - `hidden_states`: of the embedding and after each layer (B, L, width), the last one normalised; where they are asked for.
    - `token_losses` (K,), `token_index` (K,): each target's loss and its flat position in `labels`; those of text first, then
      discrete and then continuous slots of actions in the compact layout. `token_counts` (K,) bool: which are no spare ones.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    if cache_name() == "cache":
        cache: Cache | None = None
    else:
        past_key_values: Cache | None = None

        @property
        def cache(self) -> Cache | None:  # type: ignore[misc]  # a field or this, as the version of transformers has it
            return self.past_key_values

    hidden_states: tuple[Tensor, ...] | None = None
    token_losses: Tensor | None = None
    token_index: Tensor | None = None
    token_counts: Tensor | None = None


class Gato(PreTrainedModel, GenerationMixin):
    """The generalist transformer.

    **Arguments:** `config`; `patch_embedder`: a module uint8 (N, 16, 16, 3) -> (N, width), by default
    the paper's ResNet block.
    """

    config: GatoConfig
    config_class = GatoConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # `num_items_in_batch`, which transformers' Trainer passes where it is said

    def __init__(self, config: GatoConfig, patch_embedder: nn.Module | None = None) -> None:
        super().__init__(config)
        self.loss_type = "ForCausalLM"  # transformers' Trainer then counts no first label, which nothing predicts
        embedder = patch_embedder or PatchEmbedder(config.width, config.patch_channels)
        numbers, pool, self.actions = None, None, None
        if config.layout == "compact":
            places, row_scale = config.max_local_positions, 1 / max(config.initializer_range, 1e-3)
            numbers = NumberEmbedding(config.width, places, config.continuous_start, row_scale)
            self.actions = ActionHead(config.width, places, config.num_bumps)
            pool = PatchPool(config.width, config.pool_patches) if config.pool_patches > 1 else None
        sizes = config.table_rows, config.width, config.image_token_id, config.max_local_positions
        self.embedding = Embedding(*sizes, embedder, numbers, pool)
        self.transformer = Transformer(
            config.num_layers, config.num_heads, config.width, config.head_width, config.feed_forward,
            cast(PositionScheme, config.positions), config.context_length, config.drop_path, config.dropout,
        )  # fmt: skip
        self.post_init()
        for made in (embedder, pool):  # not in `_init_weights`: transformers passes over modules without weights of their own
            if isinstance(made, (PatchEmbedder, PatchPool)):
                made.initialise()
        for part in (numbers, self.actions):
            if part is not None:
                initialise(part)
        if config.layout == "compact":
            self.embedding.smooth_places()
        self.write_text_only()

    def recompute_layers(self) -> None:
        """Has each layer keep its input only and be computed again in the backward pass (activation checkpointing)."""
        enable = getattr(self, "activation_checkpointing_enable", None)  # its name from transformers 5.23 on
        (enable or self.gradient_checkpointing_enable)()

    def write_text_only(self) -> None:
        """Greedy text, `MAX_NEW_TOKENS` long, is what `generate` gives where nothing else is asked for.

        `generate` serves captions, answers and documents; actions are decoded by `GatoPolicy`.
        """
        settings = self.generation_config
        settings.suppress_tokens, settings.max_new_tokens = self.config.unwritable_ids, MAX_NEW_TOKENS
        settings.bos_token_id = None  # so that a prompt without a token is refused: training never began with bos
        settings.do_sample = False  # said, since some pipelines sample where nothing is said
        settings._from_model_config = False  # else transformers would make it anew from the configuration

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None,
        local_positions: Tensor | None = None, document_ids: Tensor | None = None,
        pixel_values: Tensor | None = None, patch_boxes: Tensor | None = None, patch_index: Tensor | None = None,
        first_patches: Tensor | None = None, patch_of: Tensor | None = None, numbers: Numbers | None = None,
        cache: Cache | None = None, past_key_values: Cache | None = None, use_cache: bool | None = None,
        labels: Tensor | None = None, target_index: Tensor | None = None, row_weights: Tensor | None = None,
        num_items_in_batch: Tensor | float | None = None, depth_noise: Tensor | None = None, exact: bool = False,
        logits_to_keep: int | Tensor = 0, return_dict: bool | None = None, output_hidden_states: bool | None = None,
        output_attentions: bool | None = None, inputs_embeds: Tensor | None = None,
    ) -> GatoOutput | tuple[Any, ...]:  # fmt: skip
        """
        **Arguments:**

        - `input_ids` (B, L): with the image slot's id where a patch stands.
        - `attention_mask` (B, past + L): 0 at padding.
        - `local_positions` (B, L): see `TokenSequence`; by default none.
        - `document_ids` (B, L): attention stays within a document; -1 is padding. Without `attention_mask`; a cache must be empty.
        - `pixel_values` uint8 (N, 16, 16, 3), `patch_boxes` (N, 4): patches packed over the batch, in order of their slots.
        - `cache`: keys and values of what came before; `past_key_values` is its older name, and only one of them is given.
        - `labels` (B, L): the id of each target token, else -100; the token at l is predicted from l - 1.
        - `row_weights` (B,): loss weight of each row. (Not `label_...`: transformers' Trainer takes every such name for labels.)
        - `num_items_in_batch`: what the weighted sum is divided by; by default this batch's weighted targets.
        - `depth_noise` (B, 2 * num_layers): see `Transformer`.
        - `target_index` (K,), `patch_index` (N,), `first_patches` (U,), `patch_of` (N,): as `TokenBatch` has them. By default places are
          looked for, which makes a GPU wait, and equal patches are embedded as often as they stand.
        - `logits_to_keep`: only the last so many positions (0: all), or a tensor of positions.
        - `numbers`: those of the batch in the compact layout, actions to be predicted among them; see `TokenBatch`.
        - `exact`: losses are negative log-likelihoods; what training takes for a continuous slot of `numbers` is softer.
        - `return_dict`: False for a tuple of what is there, in the order of `GatoOutput`.

        **Raises:** `TypeError` for an argument of another name; `ValueError` for shapes that do not fit, pictures without slots
        and slots without pictures, and what is not supported: `inputs_embeds`, `output_attentions`, a static cache.
        """
        config = self.config
        refuse_unsupported(inputs_embeds, config.output_attentions if output_attentions is None else output_attentions)
        cache = self._cache(cache, past_key_values, use_cache, labels is not None)
        check_inputs(input_ids, config.image_token_id, attention_mask, pixel_values, patch_boxes, patch_index, labels, cache, document_ids)
        numbers = self._numbers(numbers, input_ids, labels)

        wants_logits = labels is None or (target_index is None and not self.training)
        wants_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states: list[Tensor] | None = [] if wants_states else None
        before = None  # (K,): the flat places whose states the loss reads
        if labels is not None:
            target_index = find_targets(labels) if target_index is None else target_index
            before = (target_index - 1).clamp(min=0)
            before = before if numbers is None else torch.cat([before, numbers.before])
        keep = None if wants_logits or wants_states else before  # then nothing behind the last attention is computed for others

        embedded = self.embedding(input_ids, local_positions, pixel_values, patch_boxes, patch_index, numbers, first_patches, patch_of)
        layout = self._attention(input_ids, cache, attention_mask, document_ids)
        hidden = self.transformer(embedded, **layout, cache=cache, depth_noise=depth_noise, keep=keep, states=states)

        found: dict[str, Any] = {cache_name(): cache}
        if labels is not None and target_index is not None:
            of_targets = hidden.flatten(0, 1)[before] if keep is None else hidden
            found |= self._loss(of_targets, labels, target_index, numbers, row_weights, num_items_in_batch, exact)
        if wants_logits:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            found["logits"] = self.score(hidden[:, kept])
        out = GatoOutput(**found, hidden_states=None if states is None else tuple(states))
        return out if (config.return_dict if return_dict is None else return_dict) else out.to_tuple()

    def score(self, hidden: Tensor, ids: Tensor | slice | None = None) -> Tensor:
        """Logits (..., V) of hidden states (..., width), over the vocabulary or over `ids` only; a slice of ids is not copied."""
        table = self.embedding.tokens.weight
        return F.linear(hidden, table[: self.config.vocab_size] if ids is None else table[ids])

    @property
    def slots(self) -> SlotReader:
        """What reads actions in the compact layout."""
        assert self.actions is not None and self.embedding.numbers is not None, "the model is of layout gato"
        return SlotReader(self.actions, self.embedding.numbers, self.embedding.tokens.weight, self.config.discrete_start)

    def _cache(self, cache: Cache | None, older: Cache | None, use_cache: bool | None, is_learning: bool) -> Cache | None:
        """The one that was given, by whichever name, or a new one where it is wanted."""
        if cache is not None and older is not None:
            raise ValueError("'cache' and 'past_key_values' are two names of one thing; give one of them")
        cache = older if cache is None else cache
        if use_cache is None:
            use_cache = self.config.use_cache and not is_learning and not self.training
        if self.training and is_learning:
            use_cache = False  # nobody would read it, and layers that are computed again would write to it twice
        return DynamicCache(config=self.config) if use_cache and cache is None else cache

    def _attention(self, ids: Tensor, cache: Cache | None, mask: Tensor | None, documents: Tensor | None) -> dict[str, Any]:
        """Who sees whom and where everything stands, as `Transformer` takes it."""
        past = cache.get_seq_length() if cache is not None else 0
        visible, positions = attention_layout(ids, past, mask, documents)
        places = torch.arange(past + ids.shape[1], device=ids.device)[None]
        found = {"query_positions": places[:, past:] if past else places, "key_positions": places, "learned_positions": positions}
        if documents is not None and documents.is_cuda and self.config.positions != "transformer_xl":
            return found | {"mask": None, "blocks": document_blocks(documents)}
        return found | {"mask": visible}

    def _numbers(self, numbers: Numbers | None, ids: Tensor, labels: Tensor | None) -> Numbers | None:
        """Spare ones where a batch to learn from has none."""
        assert numbers is None or self.actions is not None, "numbers are of the compact layout, the model is not"
        if numbers is None and self.actions is not None and labels is not None:
            return number_arrays({"position": np.zeros(0)}, ids.numel()).to(ids.device)
        return numbers

    def _loss(
        self, hidden: Tensor, labels: Tensor, index: Tensor, numbers: Numbers | None, weights: Tensor | None,
        denominator: Tensor | float | None, exact: bool,
    ) -> dict[str, Tensor]:  # fmt: skip
        """`hidden` (K, width) are the states before the places `index` of `labels`, then those before the actions."""
        targets = labels.flatten()[index]
        counts, places, slots = targets >= 0, index, None
        if numbers is not None:
            hidden, before = hidden.split([len(index), len(numbers.before)])
            slots = self.slots.losses(before, numbers, None if exact else self.config.mean_weight)
            counts, places = torch.cat([counts, slots.counts]), torch.cat([places, slots.places])
        weight = counts.to(hidden.dtype if weights is None else weights.dtype)
        if weights is not None:
            weight = weight * weights[torch.div(places, labels.shape[1], rounding_mode="floor")]
        if denominator is None:
            denominator = weight.sum()
        floor = 1e-8  # a batch without targets has loss zero, not 0 / 0
        divisor = denominator.clamp(min=floor) if isinstance(denominator, Tensor) else max(denominator, floor)
        share = weight / divisor
        table = self.embedding.tokens.weight
        loss, losses = weighted_loss(hidden, table, targets.clamp(min=0), share[: len(index)], self.config.vocab_size)
        if slots is not None:
            loss = loss + (slots.losses * share[len(index) :]).sum()
            losses = torch.cat([losses, slots.losses.detach().to(losses.dtype)])
        return {"loss": loss, "token_losses": losses * counts, "token_index": places, "token_counts": counts}

    # -- what transformers asks for ----------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """transformers' own, which would make up the tensors that a checkpoint lacks and leave out those that it holds in vain.

        **Raises:** `ValueError` naming one of either.
        """
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # a pair, which its signature does not say
        model, info = loaded
        for key, fault in (("missing_keys", "lack"), ("unexpected_keys", "hold in vain")):
            if names := sorted(info[key]):
                more = f" and {len(names) - 1} other tensors" if len(names) > 1 else ""
                raise ValueError(f"the weights of '{args[0] if args else cls.__name__}' {fault} {names[0]}{more}; restore them")
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """transformers' own; where a `manifest.json` holds hashes of a checkpoint, these become the new files'.

        Weights in the other form, one file or shards, are removed: they would be taken for the new ones.
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        renew_model(Path(save_directory))

    def prepare_inputs_for_generation(self, input_ids: Any, is_first_iteration: bool | None = False, **kwargs: Any) -> dict:  # type: ignore[override]
        """Pictures and local positions belong to the prompt: once its slots are in the cache they are passed no more."""
        # transformers annotates `self` of its mixin with a protocol of its own internals, which no model satisfies for mypy
        inputs: dict = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)  # type: ignore[misc]
        for name in ("tokenizer", "assistant_tokenizer"):  # for stop strings; transformers hands them on to `forward`
            inputs.pop(name, None)
        mask = inputs.get("attention_mask")
        if is_first_iteration and mask is not None and mask.ndim == 2 and not bool(mask[:, -1].all()):
            raise ValueError("a prompt is padded on the right, so that its continuation would follow the padding; pad on the left")
        cache, patches = kwargs.get(cache_name()), inputs.get("pixel_values")
        is_past = cache is not None and cache.get_seq_length() > 0
        if is_past and (patches is None or not bool((inputs["input_ids"] == self.config.image_token_id).any())):
            for name in ("pixel_values", "patch_boxes", "local_positions"):
                inputs.pop(name, None)
        elif (local := inputs.get("local_positions")) is not None:
            inputs["local_positions"] = F.pad(local, (0, inputs["input_ids"].shape[1] - local.shape[1]), value=NO_LOCAL)
        return inputs

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """transformers' own, which would look every id up among the suppressed ones anew for every token."""
        made = super()._get_logits_processor(*args, **kwargs)  # type: ignore[misc]  # as above
        vocab_size = self.config.vocab_size
        return LogitsProcessorList(Suppress(p, vocab_size) if isinstance(p, SuppressTokensLogitsProcessor) else p for p in made)

    def _prepare_generated_length(self, generation_config: Any, *, input_ids_length: int, **kwargs: Any) -> Any:  # type: ignore[override]
        """Text ends where the context does, which transformers itself would only warn of."""
        context, kind = self.config.context_length, generation_config.cache_implementation
        if kind not in CACHES:
            known = ", ".join(map(str, CACHES))
            raise ValueError(f"there is no {kind} cache for this model, whose positions grow; known are {known}")
        if input_ids_length == 0:
            raise ValueError("the prompt has no token, so there is nothing to continue; give at least one")
        if input_ids_length >= context:
            raise ValueError(f"the prompt has {input_ids_length} tokens but the context holds {context}; shorten it")
        settings = super()._prepare_generated_length(generation_config, input_ids_length=input_ids_length, **kwargs)  # type: ignore[misc]  # as above
        settings.max_length = min(settings.max_length, context)
        return settings

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Beams and samples repeat all patches of a row together, where transformers would repeat patch by patch."""
        packed = {name: model_kwargs.pop(name) for name in ("pixel_values", "patch_boxes") if model_kwargs.get(name) is not None}
        if packed and input_ids is not None and expand_size > 1:
            counts = (input_ids == self.config.image_token_id).sum(dim=1).tolist()
            if any(counts):
                packed = {name: torch.cat([p for row in v.split(counts) for p in [row] * expand_size]) for name, v in packed.items()}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(  # type: ignore[misc]  # as above
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | packed

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """The table as it is. **Raises:** `ValueError` for another size: every kind of value has its ids at fixed places."""
        if new_num_tokens not in (None, self.config.vocab_size):
            raise ValueError(
                f"the table has {self.config.vocab_size} ids, {new_num_tokens} were asked for; text, values and slots have fixed places in "
                "it, so it cannot be resized: train a tokenizer that knows the pieces, and a model with it"
            )
        return self.embedding.tokens

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding.tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding.tokens = cast(TokenTable, value)

    def get_output_embeddings(self) -> nn.Module:
        return self.embedding.tokens

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """N(0, 0.02) everywhere; the continuous rows smooth in their value, since bins are ordered."""
        super()._init_weights(module)
        config = self.config
        if isinstance(module, TokenTable) and config.smooth_bins and not getattr(module.weight, "_is_hf_initialized", False):
            start = config.continuous_start
            rows = smooth_rows(NUM_BINS, config.width, config.initializer_range, config.smooth_bandwidth)
            module.weight[start : start + NUM_BINS] = rows.to(module.weight)
        if isinstance(module, Attention) and module.r_proj is not None:
            init.zeros_(module.content_bias)
            init.zeros_(module.position_bias)

    def count_parameters(self) -> dict[str, int]:
        """Parameters by part, and `total`; works on the meta device."""
        embedding = self.embedding
        parts: dict[str, nn.Module] = {
            "token table": embedding.tokens,
            "patch embedder": embedding.patch_embedder,
            "patch and local positions": nn.ModuleList([embedding.patch_rows, embedding.patch_columns, embedding.local]),
            "attention": nn.ModuleList(cast(Block, b).attention for b in self.transformer.layers),
            "feed-forward": nn.ModuleList(cast(Block, b).feed_forward for b in self.transformer.layers),
        }
        if embedding.numbers is not None and self.actions is not None:
            parts["numbers and actions"] = nn.ModuleList([embedding.numbers, self.actions])
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        total = sum(p.numel() for p in self.parameters())
        return counts | {"norms and other": total - sum(counts.values()), "total": total}


AutoConfig.register("gato", GatoConfig, exist_ok=True)
for _auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
    _auto.register(GatoConfig, Gato, exist_ok=True)
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["gato"] = "Gato"  # by this Trainer knows that smoothed labels are to be shifted, too

from . import processor  # noqa: E402, F401  the processor belongs to the model's contract, and needs its configuration

"""Pictures and text as `Gato.generate` takes them: the processor that transformers' Auto classes and pipelines find.

It lays a prompt out as `EpisodeTokenizer.encode_observation` does, since that is what the model was trained on:

    [patch] ... [patch]  question pieces  |        a picture, perhaps with a question: what follows is the answer
    text pieces                                    a text alone: what follows continues it

Importing this module registers the three classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoProcessor, AutoTokenizer
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # at the top it wants torchvision before 5.18
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_python import PreTrainedTokenizer

from . import given
from .config import GatoConfig
from .setting import COUNT, check_value
from .spec import NUM_BINS, FieldSpec, Modality

PAD, IMAGE, SEPARATOR = "<pad slot>", "<image slot>", "<separator slot>"  # no piece holds a space, so no text spells them


class GatoImageProcessor(BaseImageProcessor):
    """Pictures -> patches with the places they lie at, by the very rule the checkpoint was trained with.

    **Arguments:** `height`, `width`: pixels every picture is fitted into, on white, keeping its proportions;
    `resize`, `image_size`: how these reach multiples of 16, see `FieldSpec`.
    """

    model_input_names = ["pixel_values", "patch_boxes"]

    def __init__(
        self, height: int = 64, width: int = 64, resize: str = "exact", image_size: Sequence[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.height, self.width, self.resize = height, width, resize
        self.image_size = list(image_size) if image_size is not None else None

    @classmethod
    def of_field(cls, spec: FieldSpec) -> GatoImageProcessor:
        return cls(spec.shape[0], spec.shape[1], spec.resize, spec.image_size)

    @property
    def field(self) -> FieldSpec:
        size = (self.image_size[0], self.image_size[1]) if self.image_size is not None else None
        return FieldSpec("image", Modality.IMAGE, "observation", (self.height, self.width, 3), "uint8", resize=self.resize, image_size=size)  # type: ignore[arg-type]

    def preprocess(self, images: Any, return_tensors: str | None = None) -> BatchFeature:  # type: ignore[override]
        """
        **Arguments:** `images`: one picture or several, in any form that `as_picture` takes.

        **Returns:** `pixel_values` uint8 (N, 16, 16, 3) and `patch_boxes` int64 (N, 4), N over all pictures.
        """
        from gato.tokenizers.image import patch_boxes, patchify, resize

        from .picture import as_picture

        spec = self.field
        pictures = images if isinstance(images, (list, tuple)) else [images]
        array = np.stack([as_picture(picture, spec) for picture in pictures])
        patches = patchify(resize(spec, array))  # (pictures, n, 16, 16, 3)
        boxes = np.tile(patch_boxes(*spec.patched_size), (len(pictures), 1)).astype(np.int64)
        data = {"pixel_values": patches.reshape(-1, *patches.shape[2:]), "patch_boxes": boxes}
        return BatchFeature(data, tensor_type=return_tensors)

    __call__ = preprocess  # type: ignore[assignment]


class GatoTokenizer(PreTrainedTokenizer):
    """Our SentencePiece model behind transformers' tokenizer interface.

    Ids 0 (unk), 1 (bos) and 2 (eos) are SentencePiece's own; the ids of padding, image slot and separator lie
    behind the 1,024 continuous ones. Nothing that a user types is ever parsed as one of them. Neither bos nor
    eos is added: a prompt is to be continued.

    **Arguments:** `vocab_file`; `sha256`: of the tokenizer that the weights were trained with, which a checkpoint names.

    **Raises:** `ValueError` if the file is another tokenizer.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"

    def __init__(self, vocab_file: str, sha256: str | None = None, **kwargs: Any) -> None:
        from gato.tokenizers.text import TextTokenizer
        from gato.tokenizers.vocabulary import Vocabulary

        self.text = TextTokenizer.load(vocab_file)
        if sha256 not in (None, self.text.hash):
            raise ValueError(f"'{vocab_file}' is not the tokenizer these weights were trained with; restore it from the run")
        ranges = Vocabulary.separate_discrete(self.text.size)  # where discrete values lie changes none of these
        self._special = {PAD: ranges.pad, IMAGE: ranges.image, SEPARATOR: ranges.separator}
        self._first_after_text, self._end = self.text.size, max(self._special.values()) + 1
        names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": PAD}
        extra = kwargs.pop("extra_special_tokens", None) or [IMAGE, SEPARATOR]
        super().__init__(**{**names, **kwargs}, extra_special_tokens=extra, sha256=self.text.hash)
        self._check_known(self.all_special_tokens)

    @property
    def vocab_size(self) -> int:
        return self._end

    def get_vocab(self) -> dict[str, int]:
        """Pieces, then the continuous bins and the slots, by name."""
        return {self._convert_id_to_token(i): i for i in range(self._end)}

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """0, since all that may be named is there. **Raises:** `ValueError` for a token that is not: the model has no row for it."""
        self._check_known(new_tokens if isinstance(new_tokens, (list, tuple)) else [new_tokens])
        return 0

    def add_special_tokens(self, special_tokens_dict: dict[str, Any], *args: Any, **kwargs: Any) -> int:  # type: ignore[override]
        """As `add_tokens`."""
        values = special_tokens_dict.values()
        self._check_known([token for value in values for token in (value if isinstance(value, (list, tuple)) else [value])])
        return super().add_special_tokens(special_tokens_dict, *args, **kwargs)

    def _check_known(self, tokens: Sequence[Any]) -> None:
        unknown = self.text.piece(0)
        if new := [str(t) for t in tokens if str(t) != unknown and self._convert_token_to_id(str(t)) == 0]:
            raise ValueError(
                f"the token {new[0]!r} is not in this vocabulary, whose ids have fixed places; train a tokenizer that knows it, and a "
                "model with it"
            )

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any) -> list[str]:
        """Pieces of `text`. transformers' own method would cut special tokens out of what a user typed."""
        return [self.text.piece(i) for i in self.text.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        if token in self._special:
            return self._special[token]
        if token.startswith("<bin ") and token[5:-1].isdecimal() and int(token[5:-1]) < NUM_BINS:
            return self._first_after_text + int(token[5:-1])
        return self.text.id(token)

    def _convert_id_to_token(self, index: int) -> str:
        if index < self._first_after_text:
            return self.text.piece(index)
        names = {id_: name for name, id_ in self._special.items()}
        return names.get(index, f"<bin {index - self._first_after_text}>")

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self._decode([self._convert_token_to_id(t) for t in tokens], skip_special_tokens=True)

    def _decode(
        self, token_ids: int | list[int], skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None, **kwargs: Any
    ) -> str:
        """The text of the text ids between the special ones, which are skipped or written by name."""
        ids = [token_ids] if isinstance(token_ids, int) else [int(i) for i in token_ids]
        parts: list[str] = []
        pending: list[int] = []
        for id_ in ids:
            if 2 < id_ < self._first_after_text:
                pending.append(id_)
                continue
            if not skip_special_tokens:
                parts += [self.text.decode(pending), self._convert_id_to_token(id_)]
                pending = []
        return "".join([*parts, self.text.decode(pending)])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        path = Path(save_directory) / f"{filename_prefix + '-' if filename_prefix else ''}tokenizer.model"
        self.text.save(path)
        return (str(path),)


class GatoProcessor(ProcessorMixin):
    """Lays out prompts for `Gato.generate`, padded on the left.

    **Arguments:** `image_processor`, `tokenizer`.
    """

    def __init__(self, image_processor: GatoImageProcessor, tokenizer: GatoTokenizer, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        padding_side: str = "left",
        truncation: bool | str | None = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> BatchFeature:
        """
        **Arguments:**

        - `images`: one picture per row, or none; `text`: per row the question about the picture ("" for a caption), or without
          pictures the text to continue.
        - `padding`: True or "longest", "max_length", or False; `padding_side`: "left", which generation needs, or "right".
        - `truncation`: questions and texts are cut to `max_length` tokens, of which a picture keeps all of its own.

        **Returns:** `input_ids`, `attention_mask` (B, L) and with pictures `pixel_values`, `patch_boxes`.

        **Raises:** `ValueError` if there are not as many pictures as texts, a text to continue is empty, or a row is longer than
        `max_length` and not to be cut; `TypeError` for an argument of another name.
        """
        pictures, texts = _paired(images, text)
        tokenizer = self.tokenizer
        data: dict[str, Any] = {}
        before: list[int] = []
        after: list[int] = []
        if pictures is not None:
            data = dict(self.image_processor(pictures, return_tensors="np"))
            before = [tokenizer.convert_tokens_to_ids(IMAGE)] * (len(data["patch_boxes"]) // len(pictures))
            after = [tokenizer.convert_tokens_to_ids(SEPARATOR)]
        pieces = [tokenizer.text.encode(t) for t in texts]
        if max_length is not None:
            check_value("max_length", max_length, int, COUNT)
            room = max_length - len(before) - len(after)
            pieces = [_cut(p, room, truncation, tokenizer.truncation_side) for p in pieces]
        elif truncation or padding == "max_length":
            raise ValueError("truncation and padding to a length need max_length; give it")
        rows = [before + p + after for p in pieces]
        if empty := [i for i, row in enumerate(rows) if not row]:
            raise ValueError(f"text {empty[0]} is empty and has no picture, so there is nothing to continue; give at least one character")
        padded = tokenizer.pad(
            {"input_ids": rows}, padding=padding, max_length=max_length, pad_to_multiple_of=pad_to_multiple_of, padding_side=padding_side
        )
        if return_tensors is not None and len(lengths := {len(row) for row in padded["input_ids"]}) > 1:
            raise ValueError(f"rows of {sorted(lengths)} tokens make no tensor; set padding=True, or return_tensors=None for lists")
        data = {name: padded[name] for name in ("input_ids", "attention_mask")} | data
        return BatchFeature(data, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "patch_boxes"]

    def post_process_image_text_to_text(self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any) -> list[str]:
        """The text of each row of ids."""
        return self.tokenizer.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens)


def _paired(images: Any, text: Any) -> tuple[list[Any] | None, list[str]]:
    """Pictures, if there are any, and as many texts. **Raises:** `ValueError` if they do not pair."""
    pictures = None if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
    if pictures and all(isinstance(p, (list, tuple)) for p in pictures):  # as pipelines hand them over, per row
        pictures = list(pictures[0]) if len(pictures) == 1 else [p[0] if len(p) == 1 else p for p in pictures]
    texts = [text] if isinstance(text, str) else [""] * len(pictures or []) if text is None else given.texts("text", text)
    if not texts or (pictures is not None and len(pictures) != len(texts)):
        found = "no" if pictures is None else str(len(pictures))
        raise ValueError(f"{found} pictures were given for {len(texts)} texts; give one picture per text, or texts alone")
    return pictures, texts


def _cut(pieces: list[int], room: int, truncation: bool | str | None, side: str) -> list[int]:
    """The pieces that find room. **Raises:** `ValueError` if they do not and are not to be cut, or there is none."""
    if truncation not in (True, False, None, "longest_first", "only_first", "do_not_truncate"):
        raise ValueError(f"truncation is {truncation!r}, expected True or False")
    if room < 0:
        raise ValueError(f"max_length is {-room} tokens too short for a picture and its separator alone; raise it")
    if len(pieces) <= room:
        return pieces
    if truncation in (False, None, "do_not_truncate"):
        raise ValueError(f"a text has {len(pieces)} pieces, but max_length leaves {room}; set truncation=True, or raise it")
    return pieces[len(pieces) - room :] if side == "left" else pieces[:room]


AutoImageProcessor.register(GatoConfig, image_processor_classes={"pil": GatoImageProcessor}, exist_ok=True)
AutoTokenizer.register(GatoConfig, tokenizer_class=GatoTokenizer, exist_ok=True)
AutoProcessor.register(GatoConfig, GatoProcessor, exist_ok=True)

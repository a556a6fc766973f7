"""Text <-> SentencePiece ids, without loss: any Unicode string comes back as it was.

Nothing is normalised and characters without a piece fall back to their UTF-8 bytes. Special ids
(unk 0, bos 1, eos 2) are never parsed from a user's text. SentencePiece writes a space as U+2581;
a real U+2581 in the text would come back as a space, so it is encoded as its three bytes.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

UNKNOWN, BEGIN, END = 0, 1, 2
_SPACE_MARK = "\u2581"
_MAX_MODEL_BYTES = 64 * 2**20
_MAX_LINE = 2**14  # characters, of at most four bytes each


class TextTokenizer:
    """A trained SentencePiece model.

    **Arguments:** `model`: the bytes of a `.model` file.

    **Raises:** `ValueError` if the bytes are not a SentencePiece model with byte fallback and our special ids.
    """

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self.model = model
        self._pieces = SentencePieceProcessor()
        try:
            loaded = len(model) <= _MAX_MODEL_BYTES and self._pieces.LoadFromSerializedProto(model)
        except RuntimeError:
            loaded = False
        if not loaded:
            raise ValueError("this is not a SentencePiece model; train one with 'gato tokenizer train'")
        mark = [self._pieces.PieceToId(f"<0x{byte:02X}>") for byte in _SPACE_MARK.encode()]
        special = (self._pieces.unk_id(), self._pieces.bos_id(), self._pieces.eos_id())
        if special != (UNKNOWN, BEGIN, END) or not all(self._pieces.IsByte(i) for i in mark):
            raise ValueError(
                f"this SentencePiece model has unk, bos, eos = {special} and byte fallback {self._pieces.IsByte(mark[0])}; "
                f"expected {(UNKNOWN, BEGIN, END)} and True: train one with 'gato tokenizer train'"
            )
        self._mark_ids = mark
        self._encode_cached = lru_cache(maxsize=4096)(self._encode)

    def __reduce__(self) -> tuple[type[TextTokenizer], tuple[bytes]]:
        """Worker processes get the model's bytes; the cache cannot travel."""
        return TextTokenizer, (self.model,)

    @classmethod
    def load(cls, path: str | os.PathLike) -> TextTokenizer:
        """Reads a `.model` file. **Raises:** `ValueError` if it is missing or no SentencePiece model."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"no tokenizer at '{path}'; train one with 'gato tokenizer train'")
        if path.stat().st_size > _MAX_MODEL_BYTES:
            raise ValueError(f"'{path}' has {path.stat().st_size} bytes; a SentencePiece model has at most {_MAX_MODEL_BYTES}")
        try:
            return cls(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"'{path}': {error}") from None

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int = 32000, max_characters: int = 2**28) -> TextTokenizer:
        """Trains byte-pair pieces on `texts`, which are read once, one at a time.

        **Arguments:** `max_characters`: that are kept in memory and trained on; of more text, a fair sample of its lines.

        **Raises:** `ValueError` if the texts are too few for the size asked for.
        """
        import io

        from sentencepiece import SentencePieceTrainer

        model = io.BytesIO()
        try:
            SentencePieceTrainer.Train(
                sentence_iterator=iter(sample_lines(texts, max_characters)), model_writer=model,
                model_type="bpe", vocab_size=vocabulary_size,
                byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
                remove_extra_whitespaces=False, split_digits=True, character_coverage=0.9995,
                unk_id=UNKNOWN, bos_id=BEGIN, eos_id=END, pad_id=-1, num_threads=1,
                max_sentence_length=4 * _MAX_LINE,
                minloglevel=2,
            )  # fmt: skip
        except RuntimeError as error:
            reason = str(error).split("] ")[-1].strip() or "no text"
            raise ValueError(f"cannot train {vocabulary_size} pieces: {reason}; give more text or a smaller vocabulary") from None
        return cls(model.getvalue())

    def save(self, path: str | os.PathLike) -> None:
        Path(path).write_bytes(self.model)

    @property
    def size(self) -> int:
        return self._pieces.GetPieceSize()

    @property
    def hash(self) -> str:
        """SHA-256 of the model: stores and checkpoints name the tokenizer by it."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, text: str) -> list[int]:
        """**Raises:** `ValueError` for a lone surrogate, which is not Unicode text."""
        return list(self._encode_cached(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the text holds a lone surrogate at character {error.start}, which is not Unicode text") from None
        if _SPACE_MARK not in text:
            return tuple(self._pieces.EncodeAsIds(text))
        ids: list[int] = []
        for i, part in enumerate(text.split(_SPACE_MARK)):
            ids += (self._mark_ids if i else []) + self._pieces.EncodeAsIds(part)
        return tuple(ids)

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Captions, answers and documents: each ends in eos."""
        return [[*self._encode(text), END] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special ids have none. Bytes that are not UTF-8 become U+FFFD."""
        return self._pieces.DecodeIds([int(i) for i in ids])

    def report(self, texts: Iterable[str]) -> dict[str, int | float]:
        """How texts fare: `texts`, `characters`, `words` (between spaces), `pieces` (without the ends), and of these

        - `pieces_per_word`, `characters_per_piece`;
        - `coverage`: share of the characters that are a piece or a part of one, where the others are spelt as several bytes;
        - `unknown`: pieces that stand for something lost (none, with byte fallback).
        """
        count = dict.fromkeys(("texts", "characters", "words", "pieces", "spelt", "unknown"), 0)
        for text in texts:
            ids = self._encode(text)  # `encode` would remember the text
            count["texts"] += 1
            count["characters"] += len(text)
            count["words"] += len(text.split())
            count["pieces"] += len(ids)
            count["spelt"] += sum(i in self._leading_bytes for i in ids)
            count["unknown"] += ids.count(UNKNOWN)
        coverage = 1 - count.pop("spelt") / max(1, count["characters"])
        ratios = {
            "pieces_per_word": count["pieces"] / max(1, count["words"]),
            "characters_per_piece": count["characters"] / max(1, count["pieces"]),
        }
        return {**count, **ratios, "coverage": coverage}

    @cached_property
    def _leading_bytes(self) -> frozenset[int]:
        """Ids of the bytes that begin a character of several bytes in UTF-8."""
        return frozenset(self._pieces.PieceToId(f"<0x{byte:02X}>") for byte in range(0xC0, 0x100))

    def id(self, piece: str) -> int:
        """The inverse of `piece`; unk for what is no piece."""
        return self._pieces.PieceToId(piece)

    def piece(self, id: int) -> str:
        """How SentencePiece writes one id, for `show`."""
        return self._pieces.IdToPiece(int(id))


def sample_lines(texts: Iterable[str], max_characters: int) -> list[str]:
    """The lines of all texts, in order; at most about `max_characters` of them, each line as likely as any other.

    Whenever there is too much, half of the lines go, and of those to come only as large a share is kept.
    """
    generator = random.Random(0)
    kept: list[str] = []
    size, share = 0, 1.0
    for line in _lines(texts):
        if share < 1 and generator.random() >= share:
            continue
        kept.append(line)
        size += len(line)
        while size > max_characters and len(kept) > 1:
            kept = [k for k in kept if generator.random() < 0.5]
            size, share = sum(map(len, kept)), share / 2
    return kept


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines of at most `_MAX_LINE` characters: SentencePiece leaves out longer ones without a word."""
    for text in texts:
        for line in text.splitlines():
            yield from (line[k : k + _MAX_LINE] for k in range(0, len(line), _MAX_LINE))

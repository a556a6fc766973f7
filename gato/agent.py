"""A trained model with its tokenizer and task specs: what `gato.load` returns.

This file defines the layout of a checkpoint folder:

    config.json, model.safetensors    the transformers model
    tokenizer.model                   SentencePiece, if the model knows text
    gato.json                         format version, vocabulary, task specs, SHA-256 of the tokenizer

A run's checkpoints hold the training state beside these; `train/checkpoint.py` writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .spec import FieldSpec, Modality, TaskSpec

if TYPE_CHECKING:
    from gato.tokenizers.episode import EpisodeTokenizer

    from .episode import Episode
    from .model import Gato
    from .policy import GatoPolicy

FORMAT = 1


class Agent:
    """A model, the tokenizer it was trained with, and the tasks it has seen.

    **Arguments:** `model`; `tokenizer`: an `EpisodeTokenizer`; `tasks`: task specs by name.
    """

    def __init__(self, model: Gato, tokenizer: EpisodeTokenizer, tasks: Mapping[str, TaskSpec]) -> None:
        self.model, self.tokenizer, self.tasks = model, tokenizer, dict(tasks)

    # -- disk ------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the files above into an existing or new folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _quiet():
            self.model.save_pretrained(folder)
        text = self.tokenizer.text
        if text is not None:
            text.save(folder / "tokenizer.model")
        content = {
            "format": FORMAT,
            "vocabulary": self.tokenizer.vocabulary.to_dict(),
            "loss_on_text_observations": self.tokenizer.loss_on_text_observations,
            "tokenizer_sha256": text.hash if text else None,
            "tasks": [task.to_dict() for task in self.tasks.values()],
        }
        (folder / "gato.json").write_text(json.dumps(content, indent=1))

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str | None = None) -> Agent:
        """Opens a checkpoint folder.

        **Raises:** `ValueError` if the folder is no checkpoint, or its tokenizer is missing or another one
        than the weights were trained with.
        """
        folder = Path(folder)
        tokenizer, tasks = load_tokenizer(folder)
        from .model import Gato

        with _quiet():
            model = Gato.from_pretrained(folder, local_files_only=True).eval()
        tokenizer.max_local_positions = model.config.max_local_positions
        if tokenizer.vocabulary.size != model.config.vocab_size:
            raise ValueError(
                f"'{folder}': the weights know {model.config.vocab_size} ids but the vocabulary {tokenizer.vocabulary.size}; "
                "gato.json and model.safetensors belong to different checkpoints"
            )
        return cls(model.to(device or default_device()), tokenizer, tasks)

    # -- acting ------------------------------------------------------------------------------------

    def task(self, name: str) -> TaskSpec:
        """**Raises:** `ValueError` naming the nearest known task."""
        if name not in self.tasks:
            from difflib import get_close_matches

            near = get_close_matches(name, self.tasks, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; it knows {', '.join(sorted(self.tasks))}"
            raise ValueError(f"this checkpoint was not trained on '{name}'{hint}")
        return self.tasks[name]

    def policy(
        self, task: str | TaskSpec, temperature: float = 1.0, overflow: str = "rebuild", seed: int = 0, prompt: Episode | None = None
    ) -> GatoPolicy:
        """A policy for one of the checkpoint's tasks; see `GatoPolicy`. `prompt`: a demonstration before every episode."""
        from .policy import GatoPolicy

        spec = self.task(task) if isinstance(task, str) else task
        return GatoPolicy(self.model, self.tokenizer, spec, temperature=temperature, overflow=overflow, seed=seed, prompt=prompt)

    # -- pictures and text -------------------------------------------------------------------------

    def caption(self, image: Any, **generation: Any) -> str:
        """A caption for one picture: a path, the bytes of a file, a PIL image or an array (rows, columns, 3) uint8."""
        return self.captions([image], **generation)[0]

    def captions(self, images: Sequence[Any], max_new_tokens: int = 32, temperature: float = 0.0, seed: int = 0) -> list[str]:
        """Captions for several pictures in one batch; greedy unless `temperature` is above zero."""
        task, spec = self.caption_task()
        pictures = np.stack([_as_picture(image, spec) for image in images])
        prompt = self.tokenizer.encode_observation(task, {spec.name: pictures})
        ids = prompt.ids.reshape(len(images), -1)
        inputs = {"pixel_values": _tensor(prompt.patches), "patch_boxes": _tensor(prompt.patch_boxes.astype(np.int64))}
        return self._continue(ids, inputs, max_new_tokens, temperature, seed)

    def caption_task(self) -> tuple[TaskSpec, FieldSpec]:
        """The captioning task among the tasks, and its picture field; one of a simulator's views only where there is no other.

        **Raises:** `ValueError` if there is none.
        """
        for task in sorted(self.tasks.values(), key=lambda t: t.env_id is not None):
            pictures = [f for f in task.observations if f.modality is Modality.IMAGE]
            if not task.is_control and len(pictures) == len(task.observations) == 1:
                return task, pictures[0]
        raise ValueError("this checkpoint was trained without captions; train it on a source of captioned pictures")

    def generate(self, text: str, max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0) -> str:
        """`text` and what the model writes after it.

        **Raises:** `ValueError` for an empty text (there is no token to continue) or one longer than the context.
        """
        if self.tokenizer.text is None:
            raise ValueError("this checkpoint was trained without text")
        ids = np.array([self.tokenizer.text.encode(text)], np.int64)
        if ids.shape[1] == 0:
            raise ValueError("the text to continue is empty; give at least one character")
        return text + self._continue(ids, {}, max_new_tokens, temperature, seed)[0]

    def log_likelihood(self, episodes: Sequence[Episode]) -> np.ndarray:
        """(N,) float64: the summed log-probability of each episode's targets (of a caption: its pieces and the end)."""
        import torch

        from .batch import collate

        rows = [self.tokenizer.encode(episode) for episode in episodes]
        batch = collate(rows, max(map(len, rows)), self.tokenizer.vocabulary.pad).to(self.model.device)
        with torch.inference_mode():
            out = self.model(
                input_ids=batch.ids, local_positions=batch.local_position, pixel_values=batch.patches,
                patch_boxes=batch.patch_boxes, labels=batch.labels,
            )  # fmt: skip
        owner = (out.token_index // batch.ids.shape[1]).cpu().numpy()
        return -np.bincount(owner, weights=out.token_losses.double().cpu().numpy(), minlength=len(rows))

    def _continue(self, ids: np.ndarray, inputs: dict, max_new_tokens: int, temperature: float, seed: int) -> list[str]:
        """Generates text ids only, through transformers' `generate`."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        from gato.tokenizers.text import END

        text_size, context = self.tokenizer.vocabulary.text_size, self.model.config.context_length
        if ids.shape[1] >= context:
            raise ValueError(f"the prompt has {ids.shape[1]} tokens but the context holds {context}; shorten it")

        def only_text(_: Any, scores: torch.Tensor) -> torch.Tensor:
            return scores.index_fill(1, torch.arange(text_size, scores.shape[1], device=scores.device), float("-inf"))

        config = GenerationConfig(
            max_new_tokens=min(max_new_tokens, context - ids.shape[1]), do_sample=temperature > 0, temperature=temperature or None,
            top_k=None, top_p=None, eos_token_id=END, pad_token_id=self.tokenizer.vocabulary.pad,
        )  # fmt: skip
        device = self.model.device
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            out = self.model.generate(  # type: ignore[misc]
                torch.from_numpy(ids.astype(np.int64)).to(device), generation_config=config,
                logits_processor=LogitsProcessorList([only_text]), **{k: v.to(device) for k, v in inputs.items()},
            )  # fmt: skip
        assert self.tokenizer.text is not None
        new = out[:, ids.shape[1] :].cpu().tolist()
        return [self.tokenizer.text.decode([i for i in row if i < text_size]) for row in new]


def load(folder: str | os.PathLike, device: str | None = None) -> Agent:
    """Opens a checkpoint: model, tokenizer and task specs. See `Agent.load`."""
    return Agent.load(folder, device)


def load_tokenizer(folder: Path) -> tuple[EpisodeTokenizer, dict[str, TaskSpec]]:
    """The tokenizer and task specs of a checkpoint folder, without its weights."""
    from gato.tokenizers.episode import EpisodeTokenizer
    from gato.tokenizers.text import TextTokenizer
    from gato.tokenizers.vocabulary import Vocabulary

    path = folder / "gato.json"
    if not path.is_file():
        raise ValueError(f"'{folder}' is not a checkpoint: it has no gato.json; name a folder such as runs/NAME/final")
    content = json.loads(path.read_text())
    if content.get("format") != FORMAT:
        raise ValueError(f"'{path}' has format {content.get('format')}, this version reads {FORMAT}")
    text = None
    if content["tokenizer_sha256"] is not None:
        text = TextTokenizer.load(folder / "tokenizer.model")
        if text.hash != content["tokenizer_sha256"]:
            raise ValueError(
                f"'{folder / 'tokenizer.model'}' is not the tokenizer these weights were trained with; restore it from the run"
            )
    tokenizer = EpisodeTokenizer(text, Vocabulary(**content["vocabulary"]), content["loss_on_text_observations"])
    tasks = [TaskSpec.from_dict(values) for values in content["tasks"]]
    return tokenizer, {task.name: task for task in tasks}


def default_device() -> str:
    """cuda, else mps, else cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' progress bars over a handful of tensors off the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _tensor(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))


def _as_picture(image: Any, spec: FieldSpec) -> np.ndarray:
    """Any form of picture as uint8 of the field's shape: aspect kept, centred on white."""
    from gato.data.captions import fit_image, read_image

    if isinstance(image, (str, os.PathLike, bytes)):
        image = read_image(image if isinstance(image, bytes) else Path(image))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"a picture is uint8 (rows, columns, 3); found {array.dtype} {array.shape}")
    return array if array.shape == spec.shape else fit_image(array, (spec.shape[0], spec.shape[1]))

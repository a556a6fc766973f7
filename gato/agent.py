"""A trained model with its tokenizer and task specs: what `gato.load` returns.

This file defines the layout of a checkpoint folder:

    config.json, model.safetensors    the transformers model
    tokenizer.model                   SentencePiece, if the model knows text
    *_config.json                     how transformers' processor, tokenizer and `generate` are set up
    gato.json                         format version, vocabulary, task specs, SHA-256 of the tokenizer
    manifest.json                     size and SHA-256 of each of these files

A run's checkpoints hold the training state beside these; `train/checkpoint.py` writes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gato.layers.layout import check_layouts

from . import digests, envs, given
from .description import BASELINE, Description, learner_of
from .device import pick_device
from .disk import shown
from .episode import Episode
from .learners import found, known
from .libraries import without_bars
from .picture import as_picture
from .setting import COUNT, SEED, TEMPERATURE, Limits, check_value
from .spec import FieldSpec, Modality, TaskSpec

if TYPE_CHECKING:
    from gato.tokenizers.episode import EpisodeTokenizer

    from .model import Gato
    from .policy import GatoPolicy
    from .processor import GatoProcessor, GatoTokenizer

MAX_CANDIDATES = 256  # of one picture, which are all computed at once


class Agent:
    """A model, the tokenizer it was trained with, and the tasks it has seen.

    **Arguments:** `model`; `tokenizer`: an `EpisodeTokenizer` of the same layout; `tasks`: task specs by name, with the memory
    they were trained with.
    """

    def __init__(self, model: Gato, tokenizer: EpisodeTokenizer, tasks: Mapping[str, TaskSpec]) -> None:
        check_layouts(model.config, tokenizer)
        self.model, self.tokenizer, self.tasks = model, tokenizer, dict(tasks)
        model.write_text_only()  # checkpoints from before this was saved with them

    # -- disk ------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the files above into an existing or new folder. **Raises:** `ValueError` if something else lies there."""
        folder = Path(folder)
        if (folder / digests.NAME).is_file():
            digests.entries_of(folder)  # a store's, for example, would be overwritten
        digests.record(folder, self.write(folder))

    def write(self, folder: Path) -> list[str]:
        """The files but the manifest. **Returns:** their names."""
        folder.mkdir(parents=True, exist_ok=True)
        with without_bars():
            self.model.save_pretrained(folder)
        names = Description(self.tokenizer, self.tasks).save(folder)
        processor = self.processor() or self.text_tokenizer()
        if processor is not None:
            names += [Path(written).name for written in processor.save_pretrained(folder)]
        return [*names, *(p.name for pattern in (*digests.OF_MODEL, "*_config.json") for p in folder.glob(pattern))]

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str | None = None, verify: bool = True) -> Agent:
        """Opens a checkpoint folder.

        **Arguments:** `device`: by default the best one here; `verify`: whether the files that are read are compared with the
        hashes of `manifest.json`, which reads them once more. What the weights must hold is checked either way.

        **Raises:** `ValueError` if the folder is no checkpoint, a file of it is missing, damaged or not the one that was saved.
        """
        if not isinstance(folder, (str, os.PathLike)):
            raise ValueError(f"a checkpoint is named by its folder, found {shown(folder)}")
        folder, device = Path(folder), pick_device(device)
        described = Description.load(folder)
        from .weights import load_model, read_config, weight_files

        config, tokenizer = read_config(folder), described.tokenizer
        if tokenizer.vocabulary.size != config.vocab_size:
            raise ValueError(
                f"'{folder}': the weights know {config.vocab_size} ids but the vocabulary {tokenizer.vocabulary.size}; "
                "gato.json and model.safetensors belong to different checkpoints"
            )
        check_layouts(config, tokenizer)
        model = load_model(folder)
        if verify and (folder / digests.NAME).is_file():
            texts = ["tokenizer.model"] if tokenizer.text is not None else []
            digests.check(folder, ["config.json", "gato.json", *texts, *(path.name for path in weight_files(folder))])
        tokenizer.max_local_positions = config.max_local_positions
        return cls(model.eval().to(device), tokenizer, described.tasks)

    # -- acting ------------------------------------------------------------------------------------

    def task(self, name: str) -> TaskSpec:
        """By its name, or as `MODULE:ID`; of a set also what was not trained. **Raises:** `ValueError` naming the nearest known task."""
        name = name if name in self.tasks else name.rpartition(":")[2]
        if name not in self.tasks and envs.known_as(name, self.tasks):
            return envs.as_known(envs.task(name), self.tasks)
        if name not in self.tasks:
            from difflib import get_close_matches

            near = get_close_matches(name, self.tasks, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; it knows {', '.join(sorted(self.tasks))}"
            raise ValueError(f"this checkpoint was not trained on '{name}'{hint}")
        return self.tasks[name]

    def policy(
        self,
        task: str | TaskSpec,
        temperature: float | None = None,
        overflow: str = "rebuild",
        seed: int = 0,
        prompt: Episode | None = None,
        static: bool | None = None,
        memory: int | None = None,
        target_return: float | None = None,
        **chunks: Any,
    ) -> GatoPolicy:
        """A policy for one of the checkpoint's tasks; see `GatoPolicy`.

        **Arguments:** `prompt`: a demonstration before every episode; `memory`: by default what the task was trained with, 0: all
        that the context holds; `target_return`: of a task that was trained with a return token, by default the highest of its data;
        `chunks`: of one that was trained on chunks of actions `every`, `decay` and `ahead`, see `ChunkPolicy`.
        """
        from .learners.chunks import chunked, played
        from .learners.returns import asked, told, told_prompt
        from .policy import GatoPolicy

        spec = self.task(task) if isinstance(task, str) else task
        if not isinstance(spec, TaskSpec):
            raise ValueError(f"a task is {given.kind(task)}, expected the name of one or a TaskSpec")
        spec = envs.as_known(spec, self.tasks)
        if memory is None and overflow == "rebuild":
            memory = spec.memory
        if chunks and spec.chunk is None:
            raise ValueError(f"task '{spec.name}' was trained on single actions; leave out {', '.join(sorted(chunks))}")
        acted = told(spec) if spec.chunk is None else chunked(told(spec), spec.chunk)
        policy = GatoPolicy(
            self.model, self.tokenizer, acted, temperature=temperature, overflow=overflow, seed=seed,
            prompt=told_prompt(spec, prompt), static=static, memory=memory or None,
        )  # fmt: skip
        return asked(played(policy, spec, **chunks), spec, target_return)

    # -- pictures and text -------------------------------------------------------------------------

    def caption(self, image: Any, **generation: Any) -> str:
        """A caption for one picture: a path, the bytes of a file, a PIL image or an array (rows, columns, 3) uint8."""
        return self.captions([image], **generation)[0]

    def captions(
        self, images: Sequence[Any], max_new_tokens: int = 32, temperature: float = 0.0, seed: int = 0, streamer: Any = None
    ) -> list[str]:
        """Captions for several pictures in one batch; greedy unless `temperature` is above zero.

        **Arguments:** `streamer`: as for `generate`; for a single picture only.
        """
        pictures = given.several("images", images, "pictures; caption takes a single one")
        return self._continue(self.picture_prompts(pictures), max_new_tokens, temperature, seed, streamer=streamer)

    def answer(self, image: Any, question: str, **generation: Any) -> str:
        """The answer to a question about one picture; `image` as for `caption`."""
        return self.answers([image], [question], **generation)[0]

    def answers(
        self,
        images: Sequence[Any],
        questions: Sequence[str],
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
        streamer: Any = None,
    ) -> list[str]:
        """Answers to one question per picture, in one batch."""
        pictures, asked = given.several("images", images, "pictures; answer takes a single one"), given.texts("questions", questions)
        return self._continue(self.picture_prompts(pictures, asked), max_new_tokens, temperature, seed, streamer=streamer)

    def candidates(
        self,
        images: Sequence[Any],
        count: int,
        questions: Sequence[str] | None = None,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
        include: Sequence[str] = (),
    ) -> list[list[Candidate]]:
        """Up to `count` different captions (or answers) of each picture, the likeliest first.

        They are beams where `temperature` is zero, and samples else. The likelihood is the model's own, at temperature 1.

        **Arguments:** `include`: a text for each picture that is to be among its candidates, such as the caption that is shown.

        **Raises:** `ValueError` for a text that has outgrown the context, whose likelihood nobody knows; give fewer `max_new_tokens`.
        """
        check_value("count", count, int, Limits(1, MAX_CANDIDATES))
        images = given.several("images", images, "pictures")
        questions = None if questions is None else given.texts("questions", questions)
        prompts = self.picture_prompts(images, questions)
        found = self._continue(prompts, max_new_tokens, temperature, seed, count)
        task, spec = self.caption_task() if questions is None else self.question_task()
        pictures = self._pictures(images, spec)
        result = []
        for i, picture in enumerate(pictures):
            texts = list(dict.fromkeys([*include[i : i + 1], *found[i * count : (i + 1) * count]]))[:count]
            asked = {f.name: np.array([questions[i]], object) for f in task.observations if questions and f is not spec}
            episodes = [
                Episode(task, {spec.name: picture[None], **asked}, {task.actions[0].name: np.array([t], object)}, np.zeros(1, np.float32))
                for t in texts
            ]
            scored = zip(texts, self.log_likelihood(episodes, actions_only=True).tolist(), strict=True)
            result.append(sorted((Candidate(*pair) for pair in scored), key=lambda c: -c.log_likelihood))
        return result

    def caption_task(self) -> tuple[TaskSpec, FieldSpec]:
        """The captioning task among the tasks, and its picture field; one of a simulator's views only where there is no other.

        **Raises:** `ValueError` if there is none.
        """
        found = self.picture_task(num_texts=0)
        if found is None:
            raise ValueError("this checkpoint was trained without captions; train it on a source of captioned pictures")
        return found

    def question_task(self) -> tuple[TaskSpec, FieldSpec]:
        """The task of answering questions about pictures, and its picture field. **Raises:** `ValueError` if there is none."""
        found = self.picture_task(num_texts=1)
        if found is None:
            raise ValueError("this checkpoint was trained without questions about pictures; train it on a source of format vqa")
        return found

    def picture_task(self, num_texts: int) -> tuple[TaskSpec, FieldSpec] | None:
        for task in sorted(self.tasks.values(), key=lambda t: t.env_id is not None):
            pictures = [f for f in task.observations if f.modality is Modality.IMAGE]
            texts = [f for f in task.observations if f.modality is Modality.TEXT]
            is_known = len(pictures) == 1 and len(texts) == num_texts and len(task.observations) == 1 + num_texts
            # of a document of pictures and texts, the text stands before the picture
            if is_known and task.observations[0] is pictures[0] and not task.is_control and len(task.actions) == 1:
                return task, pictures[0]
        return None

    def processor(self) -> GatoProcessor | None:
        """Pictures and questions as `model.generate` and transformers' pipelines take them; `None` without pictures or text.

        One size of pictures serves captions and questions; where they differ, it is the captions'.
        """
        from .processor import GatoImageProcessor, GatoProcessor

        tokenizer = self.text_tokenizer()
        found = self.picture_task(num_texts=0) or self.picture_task(num_texts=1)
        return None if tokenizer is None or found is None else GatoProcessor(GatoImageProcessor.of_field(found[1]), tokenizer)

    def text_tokenizer(self) -> GatoTokenizer | None:
        """The text tokenizer with transformers' interface, for streamers and pipelines; `None` without text."""
        from tempfile import TemporaryDirectory

        from .processor import GatoTokenizer

        if self.tokenizer.text is None:
            return None
        with TemporaryDirectory() as folder:
            self.tokenizer.text.save(Path(folder) / "tokenizer.model")
            return GatoTokenizer(str(Path(folder) / "tokenizer.model"))

    def generate(self, text: str, max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0, streamer: Any = None) -> str:
        """`text` and what the model writes after it; `streamer`: one of transformers' that gets the ids as they come.

        **Raises:** `ValueError` for an empty text (there is no token to continue) or one longer than the context.
        """
        given.text("text", text)
        if self.tokenizer.text is None:
            raise ValueError("this checkpoint was trained without text")
        ids = self.tokenizer.text.encode(text)
        if not ids:
            raise ValueError("the text to continue is empty; give at least one character")
        return text + self._continue([_Prompt(ids)], max_new_tokens, temperature, seed, streamer=streamer)[0]

    def log_likelihood(self, episodes: Sequence[Episode], actions_only: bool = False) -> np.ndarray:
        """(N,) float64: the summed log-probability of each episode's targets (of a caption: its pieces and the end).

        With `actions_only` text observations, such as questions, are no targets, even if they were in training.

        **Raises:** `ValueError` for an episode that is longer than the context.
        """
        import torch

        from gato.tokenizers.episode import EpisodeTokenizer

        from .batch import collate

        own = self.tokenizer
        settings = own.max_local_positions, own.layout, own.pool_patches
        tokenizer = EpisodeTokenizer(own.text, own.vocabulary, False, *settings) if actions_only else own
        rows = [tokenizer.encode(episode) for episode in given.several("episodes", episodes, "episodes")]
        if not rows:
            return np.zeros(0)
        longest, context = max(map(len, rows)), self.model.config.context_length
        if longest > context:
            raise ValueError(f"an episode has {longest} positions but the context holds {context}; shorten it")
        batch = collate(rows, longest, self.tokenizer.vocabulary.pad).to(self.model.device)
        with torch.inference_mode():
            out = self.model(**batch.inputs(), labels=batch.labels, target_index=batch.target_index, exact=True)
        owner = (out.token_index // batch.ids.shape[1]).cpu().numpy()
        return -np.bincount(owner, weights=out.token_losses.double().cpu().numpy(), minlength=len(rows))

    def _pictures(self, images: Sequence[Any], spec: FieldSpec) -> np.ndarray:
        return np.stack([as_picture(image, spec) for image in images]) if len(images) else np.zeros((0, *spec.shape), np.uint8)

    def picture_prompts(self, images: Sequence[Any], questions: Sequence[str] | None = None) -> list[_Prompt]:
        task, spec = self.caption_task() if questions is None else self.question_task()
        if questions is not None and len(questions) != len(images):
            raise ValueError(f"{len(questions)} questions were given for {len(images)} pictures; give one per picture")
        prompts = []
        for i, picture in enumerate(self._pictures(images, spec)):
            values = {f.name: picture[None] if f is spec else np.array([questions[i]], object) for f in task.observations}  # type: ignore[index,type-var]
            tokens = self.tokenizer.encode_observation(task, values)
            prompts.append(_Prompt(tokens.ids.tolist(), tokens.patches, tokens.patch_boxes))
        return prompts

    def _continue(
        self, prompts: Sequence[_Prompt], max_new_tokens: int, temperature: float, seed: int, count: int = 1, streamer: Any = None
    ) -> list[str]:
        """`count` continuations of each prompt, one prompt after the other, through transformers' `generate`."""
        import torch
        from transformers import GenerationConfig

        from gato.tokenizers.text import END

        vocabulary, context = self.tokenizer.vocabulary, self.model.config.context_length
        check_value("temperature", temperature, float, TEMPERATURE)
        check_value("max_new_tokens", max_new_tokens, int, COUNT)
        check_value("seed", seed, int, SEED)
        if not prompts:
            return []
        longest = max(len(p.ids) for p in prompts)
        if longest >= context:
            raise ValueError(f"the prompt has {longest} tokens but the context holds {context}; shorten it")
        ids = np.array([[vocabulary.pad] * (longest - len(p.ids)) + p.ids for p in prompts], np.int64)
        mask = np.array([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in prompts])
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if any(p.patches is not None for p in prompts):
            inputs["pixel_values"] = np.concatenate([p.patches for p in prompts])
            inputs["patch_boxes"] = np.concatenate([p.boxes for p in prompts]).astype(np.int64)
        sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}  # unsaid, top_k would be 50
        config = GenerationConfig(
            max_new_tokens=min(max_new_tokens, context - longest), do_sample=temperature > 0, eos_token_id=END,
            pad_token_id=vocabulary.pad, suppress_tokens=self.model.config.unwritable_ids,
            num_return_sequences=count, num_beams=count if temperature == 0 else 1, **sampling,
        )  # fmt: skip
        device = self.model.device
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            tensors: dict[str, Any] = {k: torch.from_numpy(v).to(device) for k, v in inputs.items()}
            out = self.model.generate(**tensors, generation_config=config, streamer=streamer)  # type: ignore[misc]
        assert self.tokenizer.text is not None
        return [self.tokenizer.text.decode([i for i in row if END < i < vocabulary.text_size]) for row in out[:, longest:].cpu().tolist()]


@dataclass(frozen=True)
class Candidate:
    """A caption or an answer, and its log-probability (natural logarithm, of all its pieces and the end)."""

    text: str
    log_likelihood: float


@dataclass(frozen=True)
class _Prompt:
    """What stands before the text to come; with a picture its patches (n, 16, 16, 3) uint8 and boxes (n, 4)."""

    ids: list[int]
    patches: np.ndarray | None = None
    boxes: np.ndarray | None = None


def load(folder: str | os.PathLike, device: str | None = None, verify: bool = True) -> Agent:
    """Opens a checkpoint: model, tokenizer and task specs. See `Agent.load`.

    The folder of a retrieval or cloning policy that `gato finetune` left gives what acts the same way in its one task.
    """
    if isinstance(folder, (str, os.PathLike)) and (Path(folder) / BASELINE).is_file():
        return found(known("clone").load)(folder)
    return found(known(learner_of(folder), f"the learner of '{folder}'").load)(folder, device, verify)

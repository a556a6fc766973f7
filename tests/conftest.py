"""What many tests share: two toy tasks, a small real text tokenizer, and tiny models of every position scheme.

The weights of the tiny models are drawn with a standard deviation of 0.3, not 0.02, so that attention is
far from uniform and every position matters; equalities are checked in float64, where only the order of
summation differs.
"""

import numpy as np
import pytest
import torch

from gato.agent import Agent
from gato.batch import collate
from gato.episode import Episode
from gato.model import Gato, GatoConfig
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.tokenizers.episode import EpisodeTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.words import caption_task, document_task, question_task

SCHEMES = ("rope", "transformer_xl", "learned")

SENTENCES = [
    "go to the red ball", "go to the blue door", "pick up the green key", "open the door of the corridor",
    "put the ball next to the box", "a red ball on a blue box", "a small picture of a green key",
    "the cat sat on the mat", "two small dogs run over the hill", "what colour is the ball",
]  # fmt: skip


@pytest.fixture(scope="session")
def text() -> TextTokenizer:
    """320 pieces: 3 special ones, 256 bytes, the letters, and a few merges."""
    return TextTokenizer.train(SENTENCES * 20, vocabulary_size=320)


@pytest.fixture(scope="session")
def tokenizer(text: TextTokenizer) -> EpisodeTokenizer:
    """320 text ids are too few to share with 1,024 discrete values, so those have a range of their own."""
    return EpisodeTokenizer(text, Vocabulary.separate_discrete(text.size))


@pytest.fixture(scope="session")
def corridor() -> TaskSpec:
    """Two cells; action 1 goes right, and the right cell is the goal."""
    cell = FieldSpec("cell", Modality.DISCRETE, "observation", dtype="int64", low=(0,), high=(1,))
    step = FieldSpec("step", Modality.DISCRETE, "action", dtype="int64", low=(0,), high=(1,))
    return TaskSpec("toy/corridor", (cell, step), random_return=0.5, expert_return=1.0)


@pytest.fixture(scope="session")
def walk(corridor: TaskSpec):
    """walk([0, 0, 1], [0, 1, 1]): an episode of these cells and actions, rewarded in cell 1."""

    def make(cells: list[int], actions: list[int], **rest) -> Episode:
        return Episode(corridor, {"cell": np.array(cells)}, {"step": np.array(actions)}, np.array(cells, np.float32), **rest)

    return make


@pytest.fixture(scope="session")
def robot() -> TaskSpec:
    """A camera of two patches, an instruction, a gripper of two values, and two motors with bounds of their own."""
    return TaskSpec(
        "toy/robot",
        (
            FieldSpec("camera", Modality.IMAGE, "observation", (16, 32, 3), "uint8", path=("camera",)),
            FieldSpec("goal", Modality.TEXT, "observation", dtype="str", path=("goal",)),
            FieldSpec("gripper/force", Modality.CONTINUOUS, "observation", path=("gripper", "force")),
            FieldSpec("gripper/open", Modality.DISCRETE, "observation", (), "int64", (0,), (1,), path=("gripper", "open")),
            FieldSpec("motors", Modality.CONTINUOUS, "action", (2,), low=(-1.0, 0.0), high=(1.0, 10.0)),
        ),
    )


@pytest.fixture(scope="session")
def drive(robot: TaskSpec):
    """drive(5, "go to the red ball", seed=1): an episode of 5 timesteps with random pictures, readings and actions."""

    def make(length: int, goal: str = "go", seed: int = 0, task: TaskSpec = robot) -> Episode:
        rng = np.random.default_rng(seed)
        observations = {
            "camera": rng.integers(0, 256, (length, 16, 32, 3), dtype=np.uint8),
            "goal": np.array([goal] * length, object),
            "gripper/force": rng.normal(size=length).astype(np.float32),
            "gripper/open": rng.integers(0, 2, length),
        }
        motors = rng.uniform([-1, 0], [1, 10], (length, 2)).astype(np.float32)
        return Episode(task, observations, {"motors": motors}, np.zeros(length, np.float32))

    return make


@pytest.fixture(scope="session")
def make_gato(tokenizer: EpisodeTokenizer):
    """make_gato(positions="rope", num_layers=1): a float64 model of about 100,000 parameters, in evaluation mode."""

    def make(positions: str = "rope", context_length: int = 64, seed: int = 0, **rest) -> Gato:
        vocabulary = tokenizer.vocabulary
        settings = dict(
            vocab_size=vocabulary.size, continuous_start=vocabulary.continuous.start, image_token_id=vocabulary.image,
            pad_token_id=vocabulary.pad, num_layers=2, num_heads=2, width=32, head_width=16, feed_forward=64,
            positions=positions, context_length=context_length, initializer_range=0.3,
        )  # fmt: skip
        torch.manual_seed(seed)
        return Gato(GatoConfig(**(settings | rest))).double().eval()

    return make


@pytest.fixture(scope="session", params=SCHEMES)
def tiny(request, make_gato) -> Gato:
    """One tiny Gato per position scheme. Shared: a test that changes weights makes its own."""
    return make_gato(request.param)


@pytest.fixture(scope="module")
def agent(make_gato, tokenizer: EpisodeTokenizer) -> Agent:
    """An untrained one that captions, answers and continues text; some files have another."""
    words = (caption_task("captions", (16, 32)), question_task("vqa", (16, 32)), document_task("text"))
    return Agent(make_gato(context_length=96).float(), tokenizer, {task.name: task for task in words})


@pytest.fixture(scope="session")
def as_batch(tokenizer: EpisodeTokenizer):
    """as_batch(episode, episode, context_length=40): a row per episode."""

    def make(*episodes: Episode, context_length: int | None = None):
        rows = [tokenizer.encode(e) for e in episodes]
        return collate(rows, context_length or max(map(len, rows)), tokenizer.vocabulary.pad)

    return make


@pytest.fixture(scope="session")
def logits_of():
    """logits_of(model, batch): (B, L, V) of a plain forward pass."""

    def forward(model: Gato, batch) -> torch.Tensor:
        with torch.no_grad():
            return model(**batch.inputs(), use_cache=False).logits

    return forward

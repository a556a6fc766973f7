"""`gato eval`: returns with intervals beside random and expert, and what the agent does without its eyes or ears."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from gato.agent import Agent, load
from gato.spec import Modality, TaskSpec

from ..data.store import Store, StoreWriter
from .captioning import caption_results, store_path, wording_lines
from .rollout import EpisodeResult, Transform, rollout
from .score import mean_interval, normalised_score
from .text import text_results

if TYPE_CHECKING:
    from gato.episode import Episode
    from gato.policy import GatoPolicy


@dataclass(frozen=True)
class EvalConfig:
    """- `tasks`: names; by default all control tasks of the checkpoint. `["none"]` for none.
    - `episodes` per task; `num_envs` of them side by side; `seed` of their starts.
    - `temperature` of the actions (1 as in the paper; 0: the most likely one); `overflow`: see `GatoPolicy`.
    - `ablations`: also act with the picture blanked and with the instructions of other episodes.
    - `captions`: stores of held-out pictures; `caption_examples`: how many are shown; `nearest`: the store of the
      training pictures, for the control that copies the caption of the nearest one.
    - `text`: stores of documents, for bits per byte; at most `documents` of each.
    - `prompts`: texts to continue. `films`: a film strip per task.
    - `record`: folder in which the episodes are kept as stores, one per task; those of ablations are not.
    - `out`: where the results are written as JSON; by default `eval.json` in the checkpoint.
    """

    tasks: list[str] = field(default_factory=list)
    episodes: int = 50
    num_envs: int = 50
    seed: int = 0
    temperature: float = 1.0
    overflow: str = "rebuild"
    ablations: bool = False
    captions: list[str] = field(default_factory=list)
    caption_examples: int = 24
    nearest: str | None = None
    text: list[str] = field(default_factory=list)
    documents: int = 200
    prompts: list[str] = field(default_factory=list)
    films: bool = False
    record: Path | None = None
    device: str | None = None
    out: Path | None = None


def evaluate(policy: GatoPolicy, episodes: int = 50, seed: int = 0, num_envs: int | None = None) -> dict[str, Any]:
    """Rolls out a policy in its own task.

    **Returns:** one row: mean return with a 95 % bootstrap interval, the normalised score (0 random,
    100 expert) with its own, success, mean length and the number of failed episodes.
    """
    results = rollout(policy, policy.task, episodes, seed=seed, num_envs=num_envs or episodes)
    return summarise(policy.task, results)


def summarise(task: TaskSpec, results: Sequence[EpisodeResult], ablation: str | None = None, seconds: float = 0.0) -> dict[str, Any]:
    """A row of the score table. Failed episodes are counted, and count as the random return where that is known."""
    failed = [r for r in results if r.failed]
    returns = np.array([r.total_reward if not r.failed else np.nan for r in results])
    if task.random_return is not None:
        returns = np.where(np.isnan(returns), task.random_return, returns)
    returns = returns[np.isfinite(returns)]
    if len(returns) == 0:
        raise ValueError(f"all {len(results)} episodes of '{task.name}' failed: {failed[0].failed}")
    mean, low, high = mean_interval(returns)
    row: dict[str, Any] = {
        "task": task.name, "ablation": ablation, "episodes": len(results), "failed": len(failed),
        "random": task.random_return, "expert": task.expert_return, "mean": mean, "low": low, "high": high,
        "score": None, "score_low": None, "score_high": None,
    }  # fmt: skip
    if task.random_return is not None and task.expert_return is not None:
        scores = normalised_score(np.array([mean, low, high]), task.random_return, task.expert_return)
        row |= dict(zip(("score", "score_low", "score_high"), map(float, scores), strict=True))
    successes = [r.success if not r.failed else False for r in results]
    row["success"] = None if all(s is None for s in successes) else float(np.mean([bool(s) for s in successes]))
    row["length"] = float(np.mean([r.num_timesteps for r in results]))
    row["seconds"] = seconds
    return row


def evaluate_checkpoint(checkpoint: Path, config: EvalConfig) -> dict[str, Any]:
    """Everything `gato eval` measures; written to `config.out` as well.

    **Raises:** `ValueError` if `config.record` exists and was not made with these weights and settings.
    """
    started = time.monotonic()
    settings = _record_settings(Path(checkpoint), config) if config.record else {}
    agent = load(checkpoint, config.device)
    names = [t.name for t in agent.tasks.values() if t.is_control and t.env_id] if not config.tasks else config.tasks
    results: dict[str, Any] = {"checkpoint": str(checkpoint), "seed": config.seed, "episodes": config.episodes, "tasks": [], "films": {}}
    for name in [] if names == ["none"] else names:
        task = agent.task(name)
        results["tasks"].append(_task_row(agent, task, config, None, None, results["films"], settings))
        for label, transform in _ablations(task) if config.ablations else ():
            results["tasks"].append(_task_row(agent, task, config, label, transform, None))
    results["captions"] = [caption_results(agent, store, config.caption_examples, nearest=config.nearest) for store in config.captions]
    results["bits_per_byte"] = [text_results(agent, Store(store_path(store)), config.documents) for store in config.text]
    results["text"] = [{"prompt": p, "continuation": agent.generate(p, 48, temperature=0.7)[len(p) :]} for p in config.prompts]
    results["seconds"] = time.monotonic() - started
    out = config.out or Path(checkpoint) / "eval.json"
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1))
    temporary.replace(out)
    return results


def _task_row(
    agent: Agent,
    task: TaskSpec,
    config: EvalConfig,
    ablation: str | None,
    transform: Transform | None,
    films: dict[str, str] | None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    started = time.monotonic()
    policy = agent.policy(task, config.temperature, config.overflow, config.seed)
    frames = int(config.films and films is not None)

    def results_of(sink: Callable[[Episode], None] | None) -> list[EpisodeResult]:
        return rollout(policy, task, config.episodes, config.seed, config.num_envs, transform, record_frames=frames, sink=sink)

    if config.record is None or settings is None:
        results = results_of(None)
    else:
        with _Recorder(config.record, task, settings) as recorder:
            results = results_of(recorder)
            recorder.num_failed = sum(r.failed is not None for r in results)
    if films is not None and results[0].frames is not None:
        films[task.name] = film_strip(results[0].frames)
    return summarise(task, results, ablation, time.monotonic() - started)


class _Recorder:
    """Keeps the episodes of a task in a store; those that an interrupted evaluation has left there already are not kept twice."""

    def __init__(self, folder: Path, task: TaskSpec, settings: dict[str, Any]) -> None:
        if PurePath(task.name).is_absolute() or ".." in PurePath(task.name).parts:
            raise ValueError(f"task '{task.name}' cannot be recorded: its name leads out of {folder}")
        self.writer = StoreWriter(folder / task.name, [task], {"source": "gato.eval", "settings": settings, "licence": task.licence})
        store = Store(folder / task.name)
        self.seeds = {store.episode(i, 0, 1).seed for i in range(store.num_episodes)}
        self.num_failed = 0

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.provenance["failed_episodes"] = self.num_failed
        self.writer.close()

    def __call__(self, episode: Episode) -> None:
        if episode.seed not in self.seeds:
            self.writer.append(episode)


def _record_settings(checkpoint: Path, config: EvalConfig) -> dict[str, Any]:
    """What must agree between the parts of a recording. **Raises:** `ValueError` if the folder holds anything else."""
    assert config.record is not None
    names = ("episodes", "num_envs", "seed", "temperature", "overflow")
    settings: dict[str, Any] = {name: getattr(config, name) for name in names}
    settings["weights_sha256"] = []
    for path in sorted(checkpoint.glob("model*.safetensors")):
        with open(path, "rb") as weights:
            settings["weights_sha256"].append(file_digest(weights, "sha256").hexdigest())
    manifests = sorted(config.record.rglob("manifest.json"))
    if not manifests and config.record.exists() and (not config.record.is_dir() or any(config.record.iterdir())):
        raise ValueError(f"{config.record} exists and holds no recording; choose another folder")
    for manifest in manifests:
        found = Store(manifest.parent).manifest.provenance.get("settings")
        if found != settings:
            raise ValueError(f"{manifest.parent} was recorded with {found}, not with {settings}; choose another folder")
    return settings


def _ablations(task: TaskSpec) -> Sequence[tuple[str, Transform]]:
    """What this task can be deprived of: its pictures, its instructions."""
    pictures = [f.name for f in task.observations if f.modality is Modality.IMAGE]
    texts = [f.name for f in task.observations if f.modality is Modality.TEXT]

    def blank(observation: dict[str, np.ndarray], streams: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
        return observation | {name: np.zeros_like(observation[name]) for name in pictures}

    return ([("blank picture", blank)] if pictures else []) + ([("swapped instructions", _Swap(texts))] if texts else [])


class _Swap:
    """Gives every episode the instructions of another one, for the whole episode.

    The instruction comes from the nearest later stream whose own instruction differs.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.given: dict[tuple[str, int], str] = {}
        self.seen: list[str] = []

    def __call__(self, observation: dict[str, np.ndarray], streams: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
        changed = dict(observation)
        for name in self.names:
            own = list(observation[name])
            self.seen = list(dict.fromkeys([*self.seen, *own]))
            swapped = np.empty(len(own), dtype=object)
            for i, (text, stream, starts) in enumerate(zip(own, streams, first, strict=True)):
                key = (name, int(stream))
                if starts or key not in self.given:
                    others = [t for t in own[i + 1 :] + own[:i] + self.seen if t != text]
                    self.given[key] = others[0] if others else text
                swapped[i] = self.given[key]
            changed[name] = swapped
        return changed


def film_strip(frames: np.ndarray, count: int = 8, height: int = 120) -> str:
    """`count` evenly spaced frames side by side, as a base64 PNG."""
    from PIL import Image

    chosen = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)]
    pictures = [Image.fromarray(f) for f in chosen]
    scaled = [p.resize((max(1, round(p.width * height / p.height)), height), Image.Resampling.LANCZOS) for p in pictures]
    strip = Image.new("RGB", (sum(p.width for p in scaled) + 4 * (len(scaled) - 1), height), "white")
    x = 0
    for picture in scaled:
        strip.paste(picture, (x, 0))
        x += picture.width + 4
    return png_base64(strip)


def png_base64(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def score_table(results: dict[str, Any]) -> str:
    """The results as text: the table, the captions and the continuations."""
    lines = [f"{'task':38}{'random':>9}{'expert':>9}{'ours':>9}  {'95 % interval':20}{'score':>7}  {'95 % interval':>16}{'success':>9}"]
    for row in results["tasks"]:
        name = f"  {row['ablation']}" if row["ablation"] else row["task"]
        interval = f"[{row['low']:.4g}, {row['high']:.4g}]"
        score, span = ("", "") if row["score"] is None else (f"{row['score']:.1f}", f"[{row['score_low']:.1f}, {row['score_high']:.1f}]")
        reference = ["" if row[k] is None else f"{row[k]:.4g}" for k in ("random", "expert")]
        success = "" if row["success"] is None else f"{row['success']:.0%}"
        lines.append(f"{name:38}{reference[0]:>9}{reference[1]:>9}{row['mean']:>9.4g}  {interval:20}{score:>7}  {span:>16}{success:>9}")
        if row["failed"]:
            lines.append(f"  {row['failed']} of {row['episodes']} episodes failed and count as the random return")
    for part in results["captions"]:
        lines.append("")
        if part["retrieval"]:
            found, control = part["retrieval"], part["shuffled"]
            lines.append(f"captions of {part['pictures']} held-out pictures ({part['split']}): the right title among 10 by likelihood")
            lines.append(f"  ours {found['accuracy']:.1%} [{found['low']:.1%}, {found['high']:.1%}], with another picture "
                         f"{control['accuracy']:.1%} [{control['low']:.1%}, {control['high']:.1%}], chance 10 %")  # fmt: skip
        lines += wording_lines(part)
        lines += [f"  {e['caption'] or '(nothing)':40} | {e['title']}" for e in part["examples"]]
    for row in results.get("bits_per_byte", []):
        found = row["bits_per_byte"]
        lines += ["", f"{row['store']}: {found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}] bits per byte "
                  f"over {row['documents']} documents, {row['bytes']:,} bytes"]  # fmt: skip
    for text in results["text"]:
        lines += ["", f"{text['prompt']}|{text['continuation']}"]
    return "\n".join(lines)

"""A world model beside others that learn by acting, at equal frames of one game: the tables of docs/results/world-model.md.

    python benchmarks/world_model.py table --seeds 1                 # world model, PPO and DQN, trained where they are not yet
    python benchmarks/world_model.py table --games asterix --frames 30000 --points 10000
    python benchmarks/world_model.py ablations runs/world-model-breakout/episodes --updates 800 --policy runs/world-model-breakout/final
    python benchmarks/world_model.py beyond runs/world-model-breakout/final
    python benchmarks/world_model.py cost runs/world-model-breakout/final

Runs go to `runs/GAME-SYSTEM-FRAMES-SEED`, one after the other on one core; one that is finished is not trained again. PPO is the
project's own, DQN that of stable-baselines3 (`pip install stable-baselines3`) with MinAtar's network, both on the same cells. All are
judged by `gato.evaluate`: the same starts, the task's own end, sticky actions 0.1 and all six actions; DQN takes its best action but for
1 in 100, world model and PPO their likeliest (`--temperature`). With `--points` world model and DQN are judged on their way as well, by
what they had kept next to so many frames.

`beyond` judges a world model where a policy never was: its episodes, played by the game's expert from eight timesteps before the place
where the policy lost them; judged is what follows that place.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acting import trained
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit, TransformObservation
from torch import Tensor, nn

import gato
from gato import envs
from gato.envs.recording import Recording, episode_seed
from gato.episode import Episode
from gato.eval.dream.measure import Played
from gato.eval.dream.report import DreamReport, report
from gato.eval.rollout import rollout
from gato.eval.summary import summarise
from gato.train.metrics import read_metrics

SYSTEMS = ("world-model", "ppo", "dqn", "random")
PPO = [
    "--env.num_envs", "8", "--env.reward_scale", "1", "--model.width", "128", "--model.channels", "16", "--model.normalise", "false",
    "--ppo.rollout", "128", "--ppo.epochs", "4", "--ppo.gamma", "0.99", "--ppo.gae_lambda", "0.95", "--ppo.entropy_weight", "0.01",
    "--optim.final_ratio", "0.1",
]  # fmt: skip
DQN = {
    "learning_rate": 2.5e-4, "buffer_size": 100_000, "learning_starts": 1000, "batch_size": 32, "train_freq": 1, "gamma": 0.99,
    "target_update_interval": 1000, "exploration_fraction": 0.2, "exploration_final_eps": 0.05,
}  # fmt: skip
VARIANTS = {
    "default": [],
    "parts": ["--model.tokens", "parts"],
    "no reward token": ["--model.reward_token", "false"],
    "no memory": ["--model.memory", "1"],
    "one outcome": ["--model.outcomes", "1"],
    "uniform sampling": ["--dream.visits", "0"],
    "never blind": ["--dream.blind", "0"],
    "equal weights": ["--dream.reward_weight", "1", "--dream.discount_weight", "1"],  # as DreamerV2 has them
}
BACK, AHEAD = 8, 16  # timesteps before the place where a policy loses, and behind it
KEPT = 10_000  # frames of DQN between what is kept of it
GREEDY = 0.01  # share of random actions where DQN is judged


class Cells(nn.Module):
    """MinAtar's network up to its last layer: 16 filters of 3 x 3, then 128 units."""

    features_dim = 128

    def __init__(self, space: Any) -> None:
        super().__init__()
        rows, columns, kinds = space.shape
        self.filters = nn.Conv2d(kinds, 16, 3)
        self.units = nn.Linear(16 * (rows - 2) * (columns - 2), self.features_dim)

    def forward(self, seen: Tensor) -> Tensor:
        return torch.relu(self.units(torch.relu(self.filters(seen.permute(0, 3, 1, 2))).flatten(1)))


class Acting:
    """What `rollout` drives. **Arguments:** `choose`: the observations (n, rows, columns, kinds) -> actions (n,)."""

    def __init__(self, task: Any, choose: Any) -> None:
        self.task, self.choose = task, choose

    def reset(self, num_streams: int = 1, demonstrations: Any = ()) -> None:
        pass

    def act(self, observation: Any, reward: Any = None, first: Any = None, streams: Any = None) -> dict[str, np.ndarray]:
        return {"action": self.choose(observation["observation"])}


def dqn(task: Any, frames: int, seed: int, folder: Path, at: int) -> Any:
    """Trained, or read where it was; what it was after `at` frames, of which every `KEPT`-th are kept."""
    from stable_baselines3 import DQN as Learner
    from stable_baselines3.common.callbacks import CheckpointCallback

    path = folder / f"dqn_{at}_steps.zip"
    if path.is_file():
        return Learner.load(path, device="cpu")
    torch.set_num_threads(1)
    space = spaces.Box(0, 1, task.observations[0].shape, np.float32)
    env = TimeLimit(TransformObservation(envs.make(task), lambda seen: seen.astype(np.float32), space), task.episode_limit)
    policy = {"features_extractor_class": Cells, "net_arch": []}
    learner = Learner("MlpPolicy", env, seed=seed, device="cpu", policy_kwargs=policy, **DQN)
    learner.learn(frames, callback=CheckpointCallback(KEPT, str(folder), "dqn"))
    return Learner.load(path, device="cpu")


def policy_of(system: str, game: str, frames: int, seed: int, at: int, temperature: float) -> tuple[Any, float]:
    """What acts after `at` frames, and the seconds that its training took here; 0 where it was trained before."""
    task, started = envs.task(f"minatar-cells/{game}"), time.monotonic()
    name = f"{game}-{system}-{frames}-{seed}"
    common = ["--env.task", task.name, "--env.frames", str(frames), "--train.seed", str(seed)]
    if system == "world-model":
        kept = ["--train.save_every", "167", "--train.keep", "1000"]  # about 2,000 frames
        run = trained(name, "world-model-breakout", [*common, *kept])
    elif system == "ppo":
        run = trained(name, "ppo-cartpole", [*common, *PPO])
    elif system == "dqn":
        learner, generator = dqn(task, frames, seed, Path("runs") / name, at), np.random.default_rng(seed)

        def choose(seen: np.ndarray) -> np.ndarray:
            best, _ = learner.predict(seen.astype(np.float32), deterministic=True)
            return np.where(generator.random(len(best)) < GREEDY, generator.integers(6, size=len(best)), best)

        return Acting(task, choose), time.monotonic() - started
    else:
        chance = np.random.default_rng(seed)
        return Acting(task, lambda seen: chance.integers(6, size=len(seen))), 0.0
    return gato.load(_kept(run, at), "cpu").policy(task, temperature=temperature), time.monotonic() - started


def _kept(run: Path, at: int) -> Path:
    """The checkpoint next to so many frames."""
    frames = {line["step"]: line["frames"] for line in read_metrics(run / "metrics.jsonl")}
    steps = [int(path.name[5:]) for path in run.glob("step-*")]
    best = min([*steps, max(frames)], key=lambda step: abs(frames[step] - at))
    return run / ("final" if best == max(frames) else f"step-{best}")


def table(options: argparse.Namespace) -> None:
    for game in options.games:
        for system in options.systems:
            on_the_way = options.points if system in ("world-model", "dqn") else []
            for seed, at in itertools.product(range(options.seeds), [options.frames, *on_the_way]):
                policy, seconds = policy_of(system, game, options.frames, seed, at, options.temperature)
                row = summarise(policy.task, rollout(policy, policy.task, options.episodes, 0, 20))
                shown = {"game": game, "system": system, "seed": seed, "frames": at if system != "random" else 0}
                shown |= {name: round(row[name], 2) for name in ("mean", "low", "high")}
                print(json.dumps(shown | {"training_seconds": round(seconds)}), flush=True)


def _played(agent: Any, number: int, own: int, limit: int | None) -> Episode:
    """An episode of which the policy plays the first `own` timesteps and the game's expert the others."""
    (task,) = agent.tasks.values()
    env, policy, expert = envs.make(task), agent.policy(task), envs.expert(task)
    recording = Recording(task, env, episode_seed("beyond", number), episode_steps=limit)
    policy.reset(1)
    policy.begin(0, number)
    expert.reset(env)
    while not recording.done:
        if recording.num_timesteps < own:
            action = {name: values[0] for name, values in policy.act(recording.observation).items()}
        else:
            action = task.flatten(expert.act(env, recording.raw), "action")
        recording.step(action)
    envs.close(env)
    return recording.episode("learner")


def beyond(options: argparse.Namespace) -> None:
    print(json.dumps(beyond_row(options.checkpoint, options.policy or options.checkpoint, options.episodes)))


@torch.no_grad()
def beyond_row(checkpoint: Path, plays: Path, episodes: int) -> dict[str, float]:
    """Of the timesteps behind those at which a policy would have lost, which the expert does not: how many boards are foreseen right,
    the mean of the rewards that are said where the reward is one and elsewhere, and how often an end is said that does not come."""
    agent, player = gato.load(checkpoint, "cpu"), gato.load(plays, "cpu")
    rows: dict[str, list[np.ndarray]] = {"right": [], "paid": [], "else": [], "ended": []}
    for number in range(episodes):
        lost = _played(player, number, 10**9, None).num_timesteps
        if lost <= BACK:
            continue
        seen = Played.of(agent.model, _played(player, number, lost - BACK, lost + AHEAD), agent.gamma, agent.reward_scale)
        world, n = agent.model.world, len(seen.cells)
        hidden = world(world.embed(seen.cells[None], seen.actions[None], seen.before[None]), torch.zeros(1, n, dtype=torch.long))[0]
        ahead = world.predict(hidden, seen.cells, seen.actions)
        later, is_paid = torch.arange(n) >= lost, seen.rewards > 0
        right = (ahead.draw(None)[:-1] == seen.cells[1:]).flatten(1).all(dim=1)
        found = {"right": right[later[:-1]], "paid": ahead.reward[later & is_paid], "else": ahead.reward[later & ~is_paid]}
        found["ended"] = ahead.discount.sigmoid()[later & (seen.discounts > 0)] < 0.5
        for name, values in found.items():
            rows[name].append(values.float().numpy())
    return {f"beyond: {name}": round(float(np.concatenate(values).mean()), 3) for name, values in rows.items()}


def ablations(options: argparse.Namespace) -> None:
    """World models alone, trained on nine tenths of a store's episodes and judged on the others."""
    settings = {
        "learner": "world-model", "data": {"sources": {"played": {"store": str(options.store), "part": "train"}}},
        "env": {"first_updates": options.updates}, "model": {"width": 96, "num_layers": 2, "memory": 8, "channels": 32},
        "optim": {
            "learning_rate": 0.003, "initial_learning_rate": 0.0003, "warmup_steps": 50, "weight_decay": 1e-6, "clip": 100.0,
            "betas": [0.9, 0.999], "eps": 1e-5,
        },
        "train": {"steps": options.updates, "batch_size": 16, "save_every": 10_000, "threads": 1, "device": "cpu"},
    }  # fmt: skip
    recipe = Path("world-model-alone.yaml")
    recipe.write_text(json.dumps(settings))
    for name in options.variants:
        run = trained(f"world-alone-{name.replace(' ', '-')}", str(recipe), VARIANTS[name])
        config = DreamReport(out=run / "dream", store=str(options.store), part="test", episodes=options.episodes, strips=0)
        found = report(run / "final", config)
        row = {name: round(value, 4) for name, value in found["one_step"]["model"].items()}
        ahead = {f"right after {r['timesteps']}": round(r["right_boards"], 3) for r in found["open_loop"]}
        if options.policy:
            ahead |= beyond_row(run / "final", options.policy, 60)
        print(json.dumps({"variant": name, **row, **ahead}), flush=True)
    print(json.dumps({"variant": "copy last", **{name: round(value, 4) for name, value in found["one_step"]["copy last"].items()}}))


def cost(options: argparse.Namespace) -> None:
    """CPU time of an action of the policy alone, beside one that asks the transformer first; and of imagination."""
    from gato.learners.world.dream import Dream

    torch.set_num_threads(1)
    agent = gato.load(options.checkpoint, "cpu")
    (task,) = agent.tasks.values()
    env, dreamer = envs.make(task), agent.model
    seen, _ = env.reset(seed=0)
    cells = torch.from_numpy(np.asarray(seen)[None]).float()
    k = dreamer.config.outcomes + dreamer.scene.size

    def timed(call: Any, repeats: int) -> float:
        for _ in range(3):
            call()
        started = time.process_time()
        for _ in range(repeats):
            call()
        return (time.process_time() - started) / repeats

    with torch.inference_mode():
        alone = timed(lambda: dreamer.policy(cells), 300)
        dream, action = Dream.begun(dreamer.world, cells), torch.zeros(1, dreamer.choices.size)
        beside = alone + timed(lambda: dream.step(action), 100)
        many = Dream.begun(dreamer.world, cells.expand(64, -1, -1, -1))
        noise, actions = torch.rand(64, k), torch.zeros(64, dreamer.choices.size)
        each = timed(lambda: (dreamer.policy(many.cells), many.step(actions, noise)), 30) / 64
    print(f"an action: {1e6 * alone:.0f} us of the policy alone, {1e6 * beside:.0f} us with a step of the transformer")
    print(f"imagination: {1 / each:,.0f} timesteps a second of one core, 64 side by side")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    compared = verbs.add_parser("table")
    compared.add_argument("--games", nargs="+", default=["breakout"])
    compared.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    compared.add_argument("--frames", type=int, default=30_000)
    compared.add_argument("--points", type=int, nargs="*", default=[])
    compared.add_argument("--seeds", type=int, default=1)
    compared.add_argument("--episodes", type=int, default=100)
    compared.add_argument("--temperature", type=float, default=0.0, help="of the world model's and PPO's actions; 1: drawn as in training")
    compared.set_defaults(run=table)
    without = verbs.add_parser("ablations")
    without.add_argument("store", type=Path)
    without.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    without.add_argument("--updates", type=int, default=800)
    without.add_argument("--episodes", type=int, default=200)
    without.add_argument("--policy", type=Path, help="checkpoint; judges also where its policy never was")
    without.set_defaults(run=ablations)
    further = verbs.add_parser("beyond")
    further.add_argument("checkpoint", type=Path)
    further.add_argument("--policy", type=Path, help="checkpoint whose policy plays; its own without")
    further.add_argument("--episodes", type=int, default=60)
    further.set_defaults(run=beyond)
    timing = verbs.add_parser("cost")
    timing.add_argument("checkpoint", type=Path)
    timing.set_defaults(run=cost)
    options = parser.parse_args()
    if uneven := [n for n in [getattr(options, "frames", 0), *getattr(options, "points", [])] if n % KEPT]:
        parser.error(f"{uneven[0]} frames are no multiple of {KEPT:,}, after which DQN is kept; round them")
    options.run(options)


if __name__ == "__main__":
    from json_line import ends_in_json

    sys.exit(ends_in_json(main))

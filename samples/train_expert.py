"""Trains the expert of a MuJoCo task and writes its weights as safetensors, which NumPy can run.

    pip install 'opengato[mujoco]' stable-baselines3
    python samples/train_expert.py InvertedPendulum-v5 gato/envs/weights/inverted-pendulum.safetensors --timesteps 450000

PPO with tanh layers and normalised observations, the action in [-1, 1]. Prints the return over 20 episodes
played by the written file through the same code that collects. About 5,000 timesteps a second on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium
import numpy as np
import torch
from safetensors.numpy import save_file
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("env_id")
    parser.add_argument("out", type=Path)
    parser.add_argument("--timesteps", type=int, default=450_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    worlds = make_vec_env(options.env_id, n_envs=8, seed=options.seed, wrapper_class=gymnasium.wrappers.RescaleAction,
                          wrapper_kwargs={"min_action": -1.0, "max_action": 1.0})  # fmt: skip
    worlds = VecNormalize(worlds, gamma=options.gamma)
    learner = PPO(
        "MlpPolicy", worlds, n_steps=256, batch_size=256, n_epochs=10, learning_rate=3e-4, gamma=options.gamma, ent_coef=0.0,
        policy_kwargs={"net_arch": [options.width, options.width]}, device="cpu", seed=options.seed,
    )  # fmt: skip
    learner.learn(options.timesteps)
    save_file(tensors(learner, worlds), options.out)
    options.out.chmod(0o644)
    print(f"{learner.num_timesteps} timesteps; return of 20 episodes: {evaluate(options.env_id, options.out):.1f}")


def tensors(learner: PPO, worlds: VecNormalize) -> dict[str, np.ndarray]:
    """The mean action's layers and the normalisation of observations, as `NetworkExpert` reads them."""
    statistics = worlds.obs_rms
    found = {"observation.mean": statistics.mean, "observation.std": np.sqrt(statistics.var + worlds.epsilon)}
    layers = [m for m in learner.policy.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)]
    for k, layer in enumerate([*layers, learner.policy.action_net]):
        found[f"layers.{k}.weight"] = layer.weight.detach().numpy()
        found[f"layers.{k}.bias"] = layer.bias.detach().numpy()
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in found.items()}


def evaluate(env_id: str, path: Path) -> float:
    from gato.envs.mujoco import NetworkExpert

    env, expert, returns = gymnasium.make(env_id), NetworkExpert(path), []
    for seed in range(20):
        observation, _ = env.reset(seed=10_000 + seed)
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(expert.act(env, observation))
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


if __name__ == "__main__":
    main()

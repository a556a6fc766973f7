"""What we rely on in other libraries beyond their promises, in one place: names that they move, and their insides.

`tests/test_libraries.py` looks each of them up in what is installed, and finds in our code every private name of others
that is not listed here. `tested_versions` are those of the lock, which both commands of the Makefile install.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata, resources

# Where a private name lives in its library -> what for. A name that is set on an object of theirs counts too.
INSIDES = {
    "accelerate.state.AcceleratorState._reset_state": "train/devices.py: a second run of a process has its own device and precision",
    "argparse.ArgumentParser._actions": "gato/cli/arguments.py finds help texts and the nearest known option",
    "torch.distributed.distributed_c10d._get_default_store": "train/ranks.py: the one store that is there with every launcher",
    "torch.nn.Module._forward_hooks": "gato/layers/acting.py: layers that somebody hooked to are run as they are",
    "torch.nn.Module._forward_pre_hooks": "gato/layers/acting.py, likewise",
    "torch.ops.mkldnn._reorder_linear_weight": "gato/layers/packed.py: products with packed weights, where they do what is expected",
    "torch.ops.mkldnn._linear_pointwise": "gato/layers/packed.py, likewise",
    "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._workers": "data/loading.py ends workers that are stalled",
    "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer._hp_optimizer_states_linked": "train/zero.py: states of all groups",
    "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer._lazy_init_hp_params_optimizer_state": "train/zero.py, likewise",
    "metaworld.sawyer_xyz_env.SawyerXYZEnv._set_task_called": "gato/envs/metaworld_goals.py: a goal of our own, not one of a benchmark",
    "metaworld.sawyer_xyz_env.SawyerXYZEnv._freeze_rand_vec": "gato/envs/metaworld_goals.py, likewise",
    "metaworld.sawyer_xyz_env.SawyerXYZEnv._get_pos_goal": "gato/envs/metaworld_goals.py: the expert is told the goal",
    "transformers.PreTrainedModel._init_weights": "gato/model.py: continuous rows start smooth",
    "transformers.PreTrainedModel._no_split_modules": "gato/model.py: a block stays on one device",
    "transformers.PreTrainedModel._supports_sdpa": "gato/model.py: attention is torch's",
    "transformers.modeling_utils._is_hf_initialized": "gato/model.py: loaded weights are not drawn anew",
    "transformers.GenerationMixin._expand_inputs_for_generation": "gato/model.py: patches of a row are repeated together",
    "transformers.GenerationMixin._get_logits_processor": "gato/model.py: suppressed ids are looked up once",
    "transformers.GenerationMixin._prepare_generated_length": "gato/model.py: text ends where the context does",
    "transformers.GenerationConfig._from_model_config": "gato/model.py: the settings of text are not made anew",
    "transformers.tokenization_python.PythonBackend._convert_token_to_id": "gato/processor.py: pieces as their tokenizers have them",
    "transformers.tokenization_python.PythonBackend._convert_id_to_token": "gato/processor.py, likewise",
    "transformers.PreTrainedTokenizerBase._decode": "gato/processor.py, likewise",
}


@cache
def cache_name() -> str:
    """The name under which transformers hands a cache to a model and takes it back: `cache` from 5.24 on, before that
    `past_key_values`."""
    from inspect import signature

    from transformers import GenerationMixin

    return "cache" if "cache" in signature(GenerationMixin.prepare_inputs_for_generation).parameters else "past_key_values"


def tested_versions() -> dict[str, str]:
    """The version of each package in the lock that belongs to this Python and platform; empty without `packaging`."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return {}
    lock = resources.files("gato.configs").joinpath("requirements.lock").read_text(encoding="utf-8")
    locked = [Requirement(line) for line in lock.splitlines() if line.strip()]
    return {r.name: next(iter(r.specifier)).version for r in locked if r.marker is None or r.marker.evaluate()}


def untested_versions() -> dict[str, tuple[str, str]]:
    """The packages that are installed in another version than the tested one: (installed, tested)."""
    found = {}
    for name, tested in tested_versions().items():
        try:
            installed = metadata.version(name).split("+")[0]  # 2.13.0+cpu is a build of 2.13.0
        except metadata.PackageNotFoundError:
            continue
        if installed != tested:
            found[name] = (installed, tested)
    return found


@contextmanager
def without_bars() -> Iterator[None]:
    """Keeps transformers' progress bars over a handful of tensors off the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

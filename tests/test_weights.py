"""Weights that are not what was saved are refused by name, whoever loads them, and `gato validate` finds them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import fuzz, mutated_bytes, mutated_value
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

import gato
from gato import digests
from gato.cli import main
from gato.config import GatoConfig
from gato.data.collection.policy_expert import policy_name
from gato.description import Description
from gato.weights import read_config

MISSING = "transformer.layers.1.feed_forward.up_proj.weight"


@pytest.fixture(scope="module")
def saved(agent, tmp_path_factory) -> Path:
    """Untouched: tests copy it."""
    folder = tmp_path_factory.mktemp("checkpoint") / "final"
    agent.save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "final"))


@pytest.fixture
def shards(agent, folder) -> Path:
    agent.model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def change(folder: Path, **changes) -> None:
    """Writes the weights anew, with these tensors in place of theirs; `None` leaves one out."""
    tensors = load_file(folder / "model.safetensors") | {k.replace("__", "."): v for k, v in changes.items()}
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors", {"format": "pt"})


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path, **options) -> str:
    with pytest.raises(ValueError) as refused:
        gato.load(folder, "cpu", **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# -- completeness, which is always checked ---------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({MISSING: None}, rf"lack {re.escape(MISSING)}, which config.json asks for"),
        ({"lm_head.weight": torch.zeros(2)}, r"hold lm_head.weight, for which config.json has no place"),
        ({MISSING: torch.zeros(64, 31)}, rf"'{re.escape(MISSING)}' of shape \[64, 31\], config.json asks for \[64, 32\]"),
        ({MISSING: torch.zeros(64, 32, dtype=torch.float16)}, rf"'{re.escape(MISSING)}' as F16, expected F32"),
        ({MISSING: torch.zeros(64, 32, dtype=torch.int64)}, rf"'{re.escape(MISSING)}' as I64, expected F32"),
    ],
    ids=["missing", "surplus", "shape", "half", "integers"],
)
@pytest.mark.parametrize("verify", [True, False])
def test_tensors_that_are_missing_surplus_or_odd_are_named(folder, changes, fault, verify):
    change(folder, **changes)
    assert re.search(fault, refusal(folder, verify=verify))


def test_a_configuration_with_a_layer_more_or_less_does_not_fit_the_weights(folder):
    edit(folder / "config.json", num_layers=3)
    assert "lack transformer.layers.2." in refusal(folder) and "and 7 other tensors" in refusal(folder)
    edit(folder / "config.json", num_layers=1)
    assert "hold transformer.layers.1." in refusal(folder)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText])
@pytest.mark.parametrize("changes, fault", [({MISSING: None}, "lack"), ({"lm_head.weight": torch.zeros(2)}, "hold in vain")])
def test_transformers_own_loaders_refuse_what_is_missing_or_surplus(folder, auto, changes, fault):
    change(folder, **changes)
    with pytest.raises(ValueError, match=f"{fault} {next(iter(changes))}"):
        auto.from_pretrained(folder)


def test_transformers_says_what_it_loaded_as_ever(folder):
    model, info = gato.Gato.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, gato.Gato) and not info["missing_keys"]


@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_cut_weights_are_named(folder, length):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert "model.safetensors' is cut or damaged" in refusal(folder, verify=False)


def test_weights_that_are_not_there_or_there_twice_are_named(folder, agent):
    (folder / "model.safetensors").rename(folder / "aside")
    assert "has no weights" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "index.json' is damaged: it has no weight_map" in refusal(folder)
    (folder / "aside").rename(folder / "model.safetensors")
    assert "holds two sets of weights" in refusal(folder)


def test_pickled_weights_are_not_looked_at(folder, agent):
    torch.save(agent.model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)


# -- shards ---------------------------------------------------------------------------------------------


def test_a_missing_shard_is_named_and_so_is_an_index_that_fits_no_more(shards):
    assert gato.load(shards, "cpu")
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    first, last = min(index["weight_map"].values()), max(index["weight_map"].values())
    (shards / last).rename(shards / "aside")
    assert f"the shard '{shards / last}' is missing" in refusal(shards)
    shutil.copy(shards / first, shards / last)
    assert f"{last}' holds '" in refusal(shards)
    (shards / "aside").rename(shards / last)
    for name, place in ((next(iter(index["weight_map"])), None), ("x", first), ("x", "../x.safetensors"), ("x", "gone.safetensors")):
        changed = {n: f for n, f in (index["weight_map"] | {name: place}).items() if f}
        edit(shards / "model.safetensors.index.json", weight_map=changed)
        assert re.search("does not fit its shards|plain file name|is missing", refusal(shards))


def test_a_flipped_bit_in_a_shard_is_found(shards):
    flip(max(shards.glob("model-*.safetensors")))
    assert "is damaged: its SHA-256 is not that of manifest.json" in refusal(shards)


def test_weights_saved_in_the_other_form_take_the_place_of_the_first(agent, shards):
    assert not (shards / "model.safetensors").exists()
    agent.model.save_pretrained(shards)
    assert not list(shards.glob("model-*")) and gato.load(shards, "cpu")


# -- hashes ---------------------------------------------------------------------------------------------


def flip(path: Path, at: float = 0.9) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)


def test_a_collection_names_its_policy_by_every_shard_of_the_weights(shards, saved):
    name = policy_name(shards, "learner")
    flip(max(shards.glob("model-*.safetensors")))
    assert policy_name(shards, "learner") != name
    assert policy_name(saved, "learner") == f"policy/learner/{digests.sha256(saved / 'model.safetensors')[:12]}:{saved}"


def test_a_flipped_bit_in_the_weights_is_found_unless_hashes_are_not_wanted(folder):
    flip(folder / "model.safetensors")
    assert "model.safetensors' is damaged: its SHA-256 is not that of manifest.json" in refusal(folder)
    assert gato.load(folder, "cpu", verify=False)


def test_every_verb_can_leave_the_hashes_out(folder, capsys):
    flip(folder / "model.safetensors")
    assert main(["generate", str(folder), "go", "--max_new_tokens", "2"]) == 2
    assert main(["generate", str(folder), "go", "--max_new_tokens", "2", "--verify", "false"]) == 0
    for verb in ("caption", "generate", "chat", "demo", "show", "plot", "eval", "finetune"):
        capsys.readouterr()
        main([verb, "--help"])
        assert "--verify" in capsys.readouterr().out, verb


def test_a_changed_setting_that_fits_the_weights_is_found_by_its_hash(folder):
    edit(folder / "config.json", drop_path=0.5)
    assert "config.json' is damaged" in refusal(folder)
    assert gato.load(folder, "cpu", verify=False).model.config.drop_path == 0.5


def test_a_checkpoint_without_hashes_loads_and_validate_says_that_nobody_can_know(folder, capsys):
    (folder / "manifest.json").unlink()
    assert gato.load(folder, "cpu") and main(["validate", str(folder)]) == 0
    assert "there is no manifest.json" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1, "files": {"../x": {"bytes": 1, "sha256": ""}}}', '{"format": 2}'])
def test_a_damaged_manifest_is_named(folder, content):
    (folder / "manifest.json").write_text(content)
    assert "manifest.json'" in refusal(folder)


def test_a_model_saved_into_a_checkpoint_again_has_the_new_hashes(folder):
    agent = gato.load(folder, "cpu")
    with torch.no_grad():
        agent.model.embedding.tokens.weight[5] += 1
    agent.model.save_pretrained(folder)
    assert torch.equal(gato.load(folder, "cpu").model.embedding.tokens.weight, agent.model.embedding.tokens.weight)
    agent.save(folder)
    assert main(["validate", str(folder)]) == 0


def test_saving_over_a_store_is_refused_before_anything_is_written(agent, tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": "gato-store"}')
    with pytest.raises(ValueError, match="no manifest of a checkpoint"):
        agent.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_the_weights_in_memory_do_not_change_with_their_file(folder):
    agent = gato.load(folder, "cpu")
    before = agent.model.embedding.tokens.weight.clone()
    (folder / "model.safetensors").write_bytes(b"")
    assert torch.equal(agent.model.embedding.tokens.weight, before)


# -- validate --------------------------------------------------------------------------------------------


def findings(folder: Path, capsys) -> dict[str, str]:
    assert main(["validate", str(folder), "--json"]) == 1
    return {row["check"]: row["finding"] for row in json.loads(capsys.readouterr().out) if not row["sound"]}


def test_validate_finds_nothing_in_what_was_saved(folder, capsys):
    assert main(["validate", str(folder)]) == 0
    assert "DAMAGED" not in capsys.readouterr().out


def test_validate_names_every_damaged_file(folder, capsys):
    flip(folder / "model.safetensors")
    (folder / "tokenizer_config.json").write_text("[")
    found = findings(folder, capsys)
    assert found.keys() == {"tokenizer_config.json", "SHA-256 of tokenizer_config.json", "SHA-256 of model.safetensors"}


def test_validate_counts_what_is_not_finite(agent, folder, capsys):
    agent = gato.load(folder, "cpu")
    with torch.no_grad():
        agent.model.embedding.tokens.weight[5, :2] = torch.tensor([float("nan"), float("inf")])
    agent.save(folder)
    assert findings(folder, capsys) == {
        "weights: finite numbers": "2 numbers are NaN or infinite: 2 in embedding.tokens.weight; use a checkpoint from before"
    }


def test_validate_looks_at_several_and_refuses_what_is_no_checkpoint(folder, tmp_path, capsys):
    assert main(["validate", str(folder), str(folder)]) == 0
    assert main(["validate", str(folder), str(tmp_path / "gone")]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err


# -- folders and files that are no checkpoint ---------------------------------------------------------------


def test_a_run_names_its_checkpoints(folder, tmp_path):
    for name in ("step-9", "step-10"):
        shutil.copytree(folder, tmp_path / name)
    assert refusal(tmp_path).endswith(f"name one of {tmp_path / 'step-9'}, {tmp_path / 'step-10'}, {tmp_path / 'final'}")
    assert "there is no checkpoint" in refusal(tmp_path / "gone")
    assert "is a file" in refusal(folder / "config.json")
    assert "named by its folder, found None" in refusal(None)


@pytest.mark.parametrize("device", ["gpu", "", "meta", 3, "cpu:x"])
def test_an_unknown_device_is_named(folder, device):
    told = f"there is no device {device!r}; known are cpu, cuda"
    if device == 3 and torch.version.cuda:  # a number is a CUDA device to a build that knows CUDA
        told = "no CUDA device here; use --device cpu|there is no device '3'; cuda has"
    with pytest.raises(ValueError, match=told):
        gato.load(folder, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("verb", ["generate", "caption", "chat", "demo", "show", "plot", "eval", "finetune"])
def test_cuda_where_there_is_none_is_one_line_in_every_verb(folder, verb, capsys):
    picture = str(Path(__file__).parent.parent / "docs" / "page.png")
    rest = {"generate": ["go"], "caption": [picture], "show": ["--attention", picture], "plot": ["--embeddings", "--stores", "x"]}
    rest["finetune"] = ["--data", "x"]
    assert main([verb, str(folder), *rest.get(verb, []), "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "gato: no CUDA device here; use --device cpu\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_training_on_cuda_where_there_is_none_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "demo", "--train.device", "cuda"]) == 2
    assert "no CUDA device here; use --train.device cpu" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- odd JSON ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '"x"', '{"format": 1}', "\xff", '{"format": 1, "format": 1}', "[" * 10**5])
@pytest.mark.parametrize("name", ["gato.json", "config.json"])
def test_a_file_that_is_no_description_is_named(folder, name, content):
    (folder / name).write_text(content, encoding="latin-1")
    assert name in refusal(folder)


@pytest.mark.parametrize("seeds", [range(500), pytest.param(range(500, 10_000), marks=pytest.mark.slow)], ids=["fast", "slow"])
@pytest.mark.parametrize("name, read", [("gato.json", Description.load), ("config.json", read_config)])
def test_odd_values_are_read_as_they_are_or_refused_in_one_line(folder, name, read, seeds):
    original = json.loads((folder / name).read_text())

    def check(values: object) -> None:
        (folder / name).write_text(json.dumps(values))
        found = read(folder)
        if isinstance(found, Description):
            for task in found.tasks.values():
                assert isinstance(task.name, str) and isinstance(task.clip_actions, bool)
        else:
            assert isinstance(found, GatoConfig) and type(found.num_layers) is int and len(found.unwritable_ids) <= found.vocab_size + 2

    counts = fuzz(seeds, lambda rng: mutated_value(rng, original), check)
    assert counts["refused"] > len(seeds) / 4


def test_mutated_weights_are_the_saved_ones_or_refused(folder):
    original = (folder / "model.safetensors").read_bytes()

    def check(content: bytes) -> None:
        (folder / "model.safetensors").write_bytes(content)
        gato.load(folder, "cpu")
        assert content == original

    def made(rng: np.random.Generator) -> bytes:
        head = 8 + int.from_bytes(original[:8], "little")
        if rng.random() < 0.5:  # in the header, which is small
            return mutated_bytes(rng, original[:head]) + original[head:]
        return mutated_bytes(rng, original)

    fuzz(range(80), made, check)


def test_who_may_read_a_checkpoint_may_read_its_weights(tmp_path):
    (tmp_path / "a").touch(mode=0o600)
    digests.record(tmp_path, ["a"])
    assert (tmp_path / "a").stat().st_mode == (tmp_path / digests.NAME).stat().st_mode


def test_the_manifest_notes_what_is_there_and_forgets_what_is_gone(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    digests.record(tmp_path, ["a", "b"])
    assert digests.entries_of(tmp_path) == {
        "a": {"bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}  # FIPS 180-2's example
    }
    (tmp_path / "a").unlink()
    with pytest.raises(ValueError, match="'.*a' is missing"):
        digests.check(tmp_path)
    digests.record(tmp_path, ["a"])
    assert digests.entries_of(tmp_path) == {}

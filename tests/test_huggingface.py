"""A checkpoint is a transformers model: Auto classes, processor, pipelines, `generate`; all say the same as the agent."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, pipeline

import gato
from gato.agent import Agent
from gato.cli import main
from gato.processor import GatoTokenizer
from gato.serve.card import model_card

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(agent, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "final"
    agent.save(path)
    for i, picture in enumerate(pictures(2)):
        Image.fromarray(picture).save(path.parent / f"{i}.png")
    return path


@pytest.fixture(scope="module")
def spoken(agent) -> GatoTokenizer:
    return agent.text_tokenizer()


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 20, 30, 3), dtype=np.uint8)


_WITHOUT_TORCHVISION = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] == "torchvision" else find(name, *rest)
sys.modules["torchvision"] = None
"""
_ELSEWHERE = """
import json, socket, sys
def refuse(*_): raise AssertionError("something called the network")
socket.socket.connect = refuse
from pathlib import Path
import gato.model
from transformers import (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer,
                          pipeline)
folder = sys.argv[1]
files = [str(Path(folder).parent / f"{i}.png") for i in (0, 1)]
assert type(AutoConfig.from_pretrained(folder, trust_remote_code=False)) is gato.model.GatoConfig
for auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
    model = auto.from_pretrained(folder, trust_remote_code=False)
    assert type(model) is gato.model.Gato
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
assert type(AutoTokenizer.from_pretrained(folder)) is type(processor.tokenizer)
def generated(**inputs):
    out = model.generate(**processor(**inputs))
    return processor.batch_decode(out[:, processor(**inputs)["input_ids"].shape[1]:], skip_special_tokens=True)
captioner, writer = pipeline("image-text-to-text", model=folder), pipeline("text-generation", model=folder)
questions = ["what colour is the ball", "what"]
print(json.dumps({
    "generate": generated(images=files),
    "pipeline": [row["generated_text"] for file in files for row in captioner(file, text="")],
    "answers": generated(images=files, text=questions),
    "writer": writer("go to", max_new_tokens=9)[0]["generated_text"],
}))
"""


@pytest.mark.parametrize("has_torchvision", [True, False])
def test_pipelines_generate_agent_and_command_say_the_same_in_two_processes(agent, folder, capsys, has_torchvision):
    if has_torchvision:
        pytest.importorskip("torchvision", reason="torchvision is not installed, so transformers was tried without it only")
    code = _ELSEWHERE if has_torchvision else _WITHOUT_TORCHVISION + _ELSEWHERE
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    files = [str(folder.parent / f"{i}.png") for i in (0, 1)]
    here = agent.captions(files)
    assert len(set(here)) == 2
    assert there["generate"] == there["pipeline"] == here
    assert there["answers"] == agent.answers(files, ["what colour is the ball", "what"])
    assert there["writer"] == agent.generate("go to", max_new_tokens=9)
    assert main(["caption", str(folder), *files, "--json"]) == 0
    assert [row["caption"] for row in json.loads(capsys.readouterr().out)] == here


def test_a_processor_lays_a_question_out_as_training_did(agent):
    question, picture = "what colour is the ball", pictures(1)[0]
    made = agent.processor()(images=picture, text=question)
    (expected,) = agent.picture_prompts([picture], [question])
    assert made["input_ids"][0].tolist() == expected.ids
    np.testing.assert_array_equal(made["pixel_values"].numpy(), expected.patches)
    np.testing.assert_array_equal(made["patch_boxes"].numpy(), expected.boxes)


def test_shorter_prompts_are_padded_on_the_left(agent):
    made = agent.processor()(text=["what colour is the ball", "w"])
    assert made["attention_mask"][1].tolist() == [0] * (made["input_ids"].shape[1] - 1) + [1]
    assert (made["input_ids"][1, :-1] == agent.tokenizer.vocabulary.pad).all()


def test_a_batch_is_answered_as_each_question_alone(agent):
    shown, questions = list(pictures(2)), ["what colour is the ball", "what"]
    assert agent.answers(shown, questions) == [agent.answer(p, q) for p, q in zip(shown, questions, strict=True)]


def test_pictures_and_texts_must_pair(agent):
    with pytest.raises(ValueError, match="2 pictures were given for 1 texts"):
        agent.processor()(images=list(pictures(2)), text="what")
    with pytest.raises(ValueError, match="text 1 is empty and has no picture"):
        agent.processor()(text=["go", ""])


@pytest.mark.parametrize(
    "typed", ["<s>hello</s><unk>", "<pad slot><image slot>", "a\u2581b", "\x00 tab\t\n", "<bin 3>", " caf\u00e9 \U0001f600"]
)
def test_what_a_user_types_is_text_and_nothing_else(spoken, typed):
    ids = spoken(typed)["input_ids"]
    assert ids == spoken.text.encode(typed) and 2 < min(ids) and max(ids) < spoken.text.size
    assert spoken.decode(ids) == typed


def test_special_ids_are_those_of_the_vocabulary(spoken, tokenizer):
    ranges = tokenizer.vocabulary
    names = spoken.convert_ids_to_tokens([ranges.pad, ranges.image, ranges.separator, ranges.continuous[5], 2])
    assert names == ["<pad slot>", "<image slot>", "<separator slot>", "<bin 5>", "</s>"]
    assert spoken.convert_tokens_to_ids(names) == [ranges.pad, ranges.image, ranges.separator, ranges.continuous[5], 2]
    assert (spoken.pad_token_id, spoken.eos_token_id, spoken.bos_token_id) == (ranges.pad, 2, 1)
    assert spoken.decode([40, ranges.separator, 2], skip_special_tokens=True) == spoken.decode([40])


def test_generation_writes_text_only_and_stops_at_the_end(agent):
    out = agent.model.generate(**agent.processor()(images=list(pictures(2))), do_sample=True, num_return_sequences=20, max_new_tokens=12)
    new = out[:, 3:]
    is_pad = new == agent.tokenizer.vocabulary.pad
    assert (((new >= 2) & (new < agent.tokenizer.vocabulary.text_size)) | is_pad).all()
    after_end = (new == 2).int().cumsum(dim=1) - (new == 2).int() > 0
    assert torch.equal(after_end, is_pad)


def test_beams_with_pictures_and_with_a_cache_equal_those_without(agent):
    prompt = agent.processor()(images=list(pictures(2)), text=["what colour is the ball", "what"])
    a, b = (agent.model.generate(**prompt, num_beams=3, max_new_tokens=6, use_cache=flag) for flag in (True, False))
    assert torch.equal(a, b)


def test_pieces_stream_as_they_are_written(agent, spoken, capsys):
    from transformers import TextStreamer

    text = agent.generate("go to", max_new_tokens=9, streamer=TextStreamer(spoken, skip_special_tokens=True))
    assert capsys.readouterr().out == text + "\n"


def test_weights_in_shards_load_as_the_whole(agent, tmp_path):
    agent.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    agent.model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    for again in (AutoModelForImageTextToText.from_pretrained(tmp_path), gato.load(tmp_path, "cpu").model):
        for (name, a), b in zip(again.named_parameters(), agent.model.parameters(), strict=True):
            assert torch.equal(a, b), name


def test_a_pipeline_writes_a_batch_as_it_writes_each_alone(folder, agent):
    captioner, writer = pipeline("image-text-to-text", model=str(folder)), pipeline("text-generation", model=str(folder))
    files = [str(folder.parent / f"{i}.png") for i in (0, 1)]
    together = captioner(files, text=["", "what"], batch_size=2, return_full_text=False)
    assert [row["generated_text"] for row in together] == [agent.caption(files[0]), agent.answer(files[1], "what")]
    texts = ["go to", "what colour is"]
    assert [row[0]["generated_text"] for row in writer(texts, batch_size=2)] == [agent.generate(t, max_new_tokens=32) for t in texts]


def test_an_adapter_captions_and_its_merged_weights_say_the_same_in_every_form(agent, make_gato, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed, so the LoRA adapter was not tried")
    settings = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(make_gato(context_length=96).float(), settings).eval()
    prompt = agent.processor()(images=list(pictures(2)))
    expected = adapted.generate(**prompt, num_beams=2)
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(make_gato(context_length=96).float(), tmp_path / "adapter").eval()
    assert torch.equal(again.generate(**prompt, num_beams=2), expected)
    Agent(adapted.merge_and_unload(), agent.tokenizer, agent.tasks).save(tmp_path / "merged")
    assert torch.equal(gato.load(tmp_path / "merged", "cpu").model.generate(**prompt, num_beams=2), expected)
    assert not torch.equal(agent.model.generate(**prompt, num_beams=2), expected)


def test_candidates_are_sorted_by_the_likelihood_that_the_model_gives_them(agent):
    (found,) = agent.candidates(pictures(1), 4, temperature=1.0, max_new_tokens=3)
    values = [c.log_likelihood for c in found]
    assert len({c.text for c in found}) == len(found) > 1 and values == sorted(values, reverse=True)
    (beams,) = agent.candidates(pictures(1), 2, ["what"], max_new_tokens=3)
    assert 1 <= len(beams) <= 2 and all(c.log_likelihood < 0 for c in beams)  # different bytes may be the same broken character


def test_the_card_names_tasks_licences_and_scores(agent, folder, tmp_path):
    assert "Not measured" in model_card(folder) and "| vqa | not stated |" in model_card(folder)
    agent.save(tmp_path / "final")
    row = {"task": "toy/robot", "ablation": None, "mean": 4.0, "low": 3.0, "high": 5.0, "episodes": 20}
    (tmp_path / "final" / "eval.json").write_text(json.dumps({"tasks": [row, row | {"ablation": "blank picture"}]}))
    card = model_card(tmp_path / "final")
    assert card.startswith("---\n") and "pipeline_tag: image-text-to-text" in card
    assert card.count("- toy/robot: return 4 [3, 5] over 20 episodes") == 1


def test_saving_loading_and_the_card_call_nobody(agent, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("something called the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    agent.save(tmp_path / "final")
    gato.load(tmp_path / "final", device="cpu").caption(pictures(1)[0], max_new_tokens=2)
    model_card(tmp_path / "final")

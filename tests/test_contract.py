"""What transformers asks of a model and its processor: each row of the table in docs/transformers.md."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
    Trainer,
    TrainingArguments,
)

from gato.config import GatoConfig
from gato.libraries import cache_name
from gato.model import Gato

RED = Image.new("RGB", (32, 16), "red")


@pytest.fixture(scope="module")
def model(agent) -> Gato:
    return agent.model


@pytest.fixture(scope="module")
def processor(agent):
    return agent.processor()


@pytest.fixture(scope="module")
def prompt(processor) -> dict:
    return dict(processor(text=["what colour is"]))


@pytest.fixture(scope="module")
def shown(processor) -> dict:
    return dict(processor(images=[RED], text="what"))


@pytest.fixture
def folder(agent, tmp_path):
    agent.save(tmp_path / "final")
    return tmp_path / "final"


# -- forward -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["attention_masc", "position_ids", "token_type_ids", "imgaes", "label_weights"])
def test_an_argument_of_another_name_is_refused(model, prompt, name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        model(**prompt, **{name: prompt["input_ids"]})


def test_a_tuple_holds_what_the_output_holds(model, prompt):
    out = model(**prompt, output_hidden_states=True)
    assert [type(part) for part in model(**prompt, output_hidden_states=True, return_dict=False)] == [type(part) for part in out.values()]
    assert torch.equal(model(**prompt, return_dict=False)[0], out.logits)
    loss, logits = model(**prompt, labels=prompt["input_ids"], return_dict=False)[:2]
    assert loss.ndim == 0 and torch.equal(logits, out.logits)


def test_hidden_states_lead_to_the_logits_with_labels_and_without(model, prompt):
    for more in ({}, {"labels": prompt["input_ids"]}):
        out = model(**prompt, output_hidden_states=True, **more)
        assert len(out.hidden_states) == model.config.num_layers + 1
        torch.testing.assert_close(model.score(out.hidden_states[-1]), out.logits)
        assert torch.equal(out.hidden_states[0], model.get_input_embeddings()(prompt["input_ids"]))


def test_logits_come_with_the_loss_in_evaluation_and_not_in_training(model, prompt):
    ids = prompt["input_ids"]
    out = model(**prompt, labels=ids)
    expected = torch.nn.functional.cross_entropy(out.logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(out.loss, expected)
    learning = copy.deepcopy(model).train()
    assert learning(**prompt, labels=ids).logits is None


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"output_attentions": True}, "attentions are not kept"),
        ({"inputs_embeds": torch.zeros(1, 2, 32)}, "inputs_embeds are not taken"),
        ({"attention_mask": torch.ones(1, 2)}, r"attention_mask has the shape \(1, 2\)"),
        (
            {"document_ids": torch.zeros(1, 5, dtype=torch.long), "attention_mask": torch.ones(1, 5)},
            "attention_mask would not be looked at",
        ),
        ({"labels": torch.ones(1, 2)}, r"labels have the shape \(1, 2\)"),
        ({"input_ids": torch.tensor([3, 4])}, "input_ids are whole numbers of shape"),
        ({"input_ids": torch.zeros(1, 3)}, "input_ids are whole numbers of shape"),
    ],
)
def test_what_does_not_fit_or_is_not_supported_is_named(model, prompt, arguments, fault):
    with pytest.raises(ValueError, match=fault):
        model(**{**prompt, **arguments})


def test_slots_need_pictures_and_pictures_need_slots(model, prompt, shown):
    pictures = {name: shown[name] for name in ("pixel_values", "patch_boxes")}
    without = {name: shown[name] for name in ("input_ids", "attention_mask")}
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="0 patches were given for 2 image slots"):
            call(**without)
        with pytest.raises(ValueError, match="2 patches were given for 0 image slots"):
            call(**prompt, **pictures)
    with pytest.raises(ValueError, match="pixel_values and patch_boxes belong together"):
        model(**without, pixel_values=shown["pixel_values"])
    with pytest.raises(ValueError, match="pixel_values are uint8 patches"):
        model(**{**shown, "pixel_values": shown["pixel_values"].float()})
    with pytest.raises(ValueError, match="patch_boxes have the shape"):
        model(**{**shown, "patch_boxes": shown["patch_boxes"][:1]})


def test_a_cache_passed_by_hand_continues(model, prompt):
    ids = prompt["input_ids"]
    first = model(input_ids=ids[:, :3], use_cache=True)
    rest = model(input_ids=ids[:, 3:], **{cache_name(): first.cache})
    torch.testing.assert_close(rest.logits, model(input_ids=ids).logits[:, 3:], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="the cache holds 3 tokens of others"):
        first = model(input_ids=ids[:, :3], use_cache=True)
        model(input_ids=ids[:, 3:], document_ids=torch.zeros_like(ids[:, 3:]), **{cache_name(): first.cache})
    with pytest.raises(ValueError, match="static cache"):
        model(input_ids=ids, **{cache_name(): StaticCache(config=model.config, max_cache_len=50)})


# -- generate ------------------------------------------------------------------------------------------------


class EndsAt(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def test_ways_to_generate_that_change_nothing_but_the_speed(agent, model, prompt, shown, make_gato):
    greedy = model.generate(**prompt, max_new_tokens=8)
    other = make_gato(context_length=96, seed=1).float()
    for way in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": other}, {"use_cache": False}, {"cache_implementation": "dynamic"}):
        assert torch.equal(model.generate(**prompt, max_new_tokens=8, **way), greedy), way
    seen = model.generate(**shown, max_new_tokens=8)
    for way in ({"prompt_lookup_num_tokens": 3}, {"use_cache": False}):
        assert torch.equal(model.generate(**shown, max_new_tokens=8, **way), seen), way


def test_ways_to_generate_that_give_other_texts(agent, model, prompt, processor):
    length = prompt["input_ids"].shape[1]
    assert len(model.generate(**prompt, max_new_tokens=4, num_beams=3, num_return_sequences=2)) == 2
    assert len(model.generate(**prompt, max_new_tokens=4, do_sample=True, top_k=5, top_p=0.9, min_p=0.01, num_return_sequences=3)) == 3
    assert model.generate(**prompt, max_new_tokens=9, stopping_criteria=StoppingCriteriaList([EndsAt(length + 2)])).shape[1] == length + 2
    stopped = model.generate(**prompt, max_new_tokens=60, stop_strings=["a", "e", " "], tokenizer=processor.tokenizer)
    assert stopped.shape[1] < length + 60 or processor.tokenizer.decode(stopped[0, length:-1])
    assert model.generate(**prompt, max_new_tokens=3, guidance_scale=1.5).shape[1] <= length + 3
    allowed = model.generate(**prompt, max_new_tokens=3, prefix_allowed_tokens_fn=lambda *_: [50, 51])
    assert set(allowed[0, length:].tolist()) <= {50, 51}


def test_scores_logits_and_hidden_states_of_each_step_are_returned(model, prompt):
    wanted = {"output_scores": True, "output_logits": True, "output_hidden_states": True}
    out = model.generate(**prompt, max_new_tokens=3, min_new_tokens=3, return_dict_in_generate=True, **wanted)
    assert len(out.scores) == len(out.logits) == len(out.hidden_states) == 3
    assert [state[-1].shape[1] for state in out.hidden_states] == [prompt["input_ids"].shape[1], 1, 1]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"cache_implementation": "static"}, "there is no static cache for this model"),
        ({"cache_implementation": "quantized"}, "there is no quantized cache for this model"),
        ({"return_dict_in_generate": True, "output_attentions": True}, "attentions are not kept"),
        ({"inputs_embeds": torch.zeros(1, 2, 32)}, "inputs_embeds"),
        ({"max_new_tokns": 3}, "max_new_tokns"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "trust_remote_code"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long), "attention_mask": torch.zeros(1, 0)}, "the prompt has no token"),
    ],
)
def test_ways_to_generate_that_are_refused(model, prompt, arguments, fault):
    with pytest.raises(ValueError, match=fault):
        model.generate(**{**prompt, **arguments})


def test_a_prompt_padded_on_the_right_is_refused_and_one_on_the_left_is_not(model, processor):
    texts = ["what colour is the ball", "what"]
    with pytest.raises(ValueError, match="padded on the right"):
        model.generate(**processor(text=texts, padding_side="right"))
    assert len(model.generate(**processor(text=texts), max_new_tokens=2)) == 2


def test_right_padding_does_for_a_forward_pass(model, processor):
    texts = ["what colour is the ball", "what"]
    right = model(**processor(text=texts, padding_side="right")).logits[1, 2]
    assert processor(text=["what"])["input_ids"].shape[1] == 3
    torch.testing.assert_close(right, model(**processor(text=["what"])).logits[0, 2], atol=1e-4, rtol=1e-4)


# -- the processor ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["imgaes", "videos", "add_special_tokens", "do_resize"])
def test_the_processor_refuses_an_argument_of_another_name(processor, name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        processor(text="go", **{name: None})
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        processor.image_processor([RED], **{name: None})


def test_truncation_cuts_to_max_length_from_the_side_that_the_tokenizer_names(processor):
    whole = processor(text="what colour is the ball")["input_ids"][0].tolist()
    assert processor(text="what colour is the ball", truncation=True, max_length=5)["input_ids"][0].tolist() == whole[:5]
    processor.tokenizer.truncation_side = "left"
    try:
        assert processor(text="what colour is the ball", truncation=True, max_length=5)["input_ids"][0].tolist() == whole[-5:]
    finally:
        processor.tokenizer.truncation_side = "right"


def test_a_picture_keeps_its_patches_and_its_separator_when_its_question_is_cut(processor):
    whole = processor(images=[RED], text="what colour is the ball")["input_ids"][0].tolist()
    cut = processor(images=[RED], text="what colour is the ball", truncation=True, max_length=5)
    assert cut["input_ids"][0].tolist() == [*whole[:4], whole[-1]] and len(cut["pixel_values"]) == 2
    with pytest.raises(ValueError, match="1 tokens too short for a picture"):
        processor(images=[RED], text="what", truncation=True, max_length=2)


def test_padding_is_to_the_longest_to_a_length_to_a_multiple_or_not_done(processor):
    texts = ["what colour", "what"]
    assert processor(text=texts, padding="max_length", max_length=30)["input_ids"].shape == (2, 30)
    assert processor(text=texts, pad_to_multiple_of=16)["input_ids"].shape[1] % 16 == 0
    assert [len(row) for row in processor(text=texts, padding=False, return_tensors=None)["input_ids"]] == [9, 3]
    with pytest.raises(ValueError, match=r"rows of \[3, 9\] tokens make no tensor"):
        processor(text=texts, padding=False)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"max_length": 2}, "a text has 3 pieces, but max_length leaves 2"),
        ({"truncation": True}, "need max_length"),
        ({"padding": "max_length"}, "need max_length"),
        ({"max_length": 0, "truncation": True}, "'max_length' is 0"),
        ({"max_length": 9, "truncation": "sideways"}, "truncation is 'sideways'"),
        ({"text": 3}, "text is 3, expected a list of texts"),
        ({"text": ["go", None]}, r"text\[1\] is None"),
        ({"text": []}, "no pictures were given for 0 texts"),
    ],
)
def test_what_the_processor_cannot_do_is_named(processor, arguments, fault):
    with pytest.raises(ValueError, match=fault):
        processor(**{"text": "what", **arguments})


# -- vocabulary -------------------------------------------------------------------------------------------------


def test_the_table_cannot_be_resized_but_may_be_asked_to_stay(model):
    size = model.config.vocab_size
    for same in (None, size):
        assert model.resize_token_embeddings(same) is model.get_input_embeddings() is model.get_output_embeddings()
    with pytest.raises(ValueError, match=f"the table has {size} ids, {size + 10} were asked for"):
        model.resize_token_embeddings(size + 10)


def test_new_tokens_are_refused_and_known_ones_are_no_news(folder, processor):
    tokenizer = processor.tokenizer
    assert tokenizer.add_tokens(["</s>", "a"]) == tokenizer.add_tokens("<bin 1023>") == 0
    for add in (lambda: tokenizer.add_tokens(["<NEW>"]), lambda: tokenizer.add_special_tokens({"pad_token": "[PAD]"})):
        with pytest.raises(ValueError, match="is not in this vocabulary"):
            add()
    with pytest.raises(ValueError, match=r"'\[PAD\]' is not in this vocabulary"):
        type(tokenizer)(str(folder / "tokenizer.model"), pad_token="[PAD]")
    assert tokenizer.pad_token == "<pad slot>" and len(tokenizer) == tokenizer.vocab_size


# -- configuration and weights ---------------------------------------------------------------------------------------


def test_a_configuration_comes_back_from_its_dictionary():
    config = GatoConfig(num_layers=3, positions="transformer_xl", drop_path=0.0)
    assert GatoConfig.from_dict(config.to_dict()).to_dict() == GatoConfig(**config.to_dict()).to_dict() == config.to_dict()
    with pytest.raises(ValueError, match="tie_word_embeddings is False"):
        GatoConfig(tie_word_embeddings=False)


@pytest.mark.parametrize("name, value", [("num_layers", 0), ("num_layers", True), ("width", 2.5), ("drop_path", 1), ("head_width", 15)])
def test_a_configuration_that_no_model_has_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}, expected"):
        GatoConfig(**{name: value})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_back_in_the_dtype_they_were_saved_in(folder, tmp_path, dtype):
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cpu")
    loaded.tie_weights()
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert again.dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), again.parameters(), strict=True))


def test_an_attention_that_is_not_ours_is_refused(folder):
    with pytest.raises(ValueError, match="does not support Flash Attention"):
        AutoModelForCausalLM.from_pretrained(folder, attn_implementation="flash_attention_2")


# -- Trainer --------------------------------------------------------------------------------------------------------


def rows(processor, count: int) -> list[dict]:
    made = []
    for text in (["go to the red ball", "open the door"] * count)[:count]:
        ids = processor.tokenizer(text)["input_ids"] + [2]
        made.append({"input_ids": ids, "labels": ids})
    return made


def collator(processor):
    def collate(features: list[dict]) -> dict:
        padded = processor.tokenizer.pad({"input_ids": [f["input_ids"] for f in features]}, return_tensors="pt", padding_side="right")
        labels = torch.where(padded["attention_mask"].bool(), padded["input_ids"], -100)
        return {**padded, "labels": labels}

    return collate


def trainer(model: Gato, processor, folder, **settings) -> Trainer:
    def measured(prediction) -> dict:
        shifted = prediction.predictions[:, :-1].argmax(-1)
        wanted = prediction.label_ids[:, 1:]
        return {"right": float((shifted == wanted)[wanted >= 0].mean())}

    common = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "per_device_eval_batch_size": 2, "save_strategy": "no"}
    return Trainer(
        model, TrainingArguments(folder, **(common | settings)), data_collator=collator(processor), compute_metrics=measured,
        train_dataset=rows(processor, 8), eval_dataset=rows(processor, 5),
    )  # fmt: skip


def test_a_trainer_evaluates_with_a_loss_and_with_metrics_of_the_logits(model, processor, tmp_path):
    found = trainer(copy.deepcopy(model), processor, tmp_path).evaluate()
    losses = [model(**{k: torch.tensor([v]) for k, v in row.items()}) for row in rows(processor, 2)]
    assert min(o.loss.item() for o in losses) < found["eval_loss"] < max(o.loss.item() for o in losses)
    assert 0 <= found["eval_right"] <= 1


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_learns_and_accumulation_changes_nothing(model, processor, tmp_path):
    weights = []
    for size, steps in ((4, 1), (2, 2)):
        torch.manual_seed(0)
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 2, "seed": 0, "optim": "sgd"}
        made = trainer(copy.deepcopy(model), processor, tmp_path, learning_rate=0.5, **settings)
        before = made.evaluate()["eval_loss"]
        made.train()
        assert made.evaluate()["eval_loss"] < before
        weights.append(made.model.embedding.tokens.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], atol=1e-4, rtol=1e-3)
    assert not torch.equal(weights[0], model.embedding.tokens.weight)


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_smooths_labels_and_recomputes_layers(model, processor, tmp_path):
    settings = {"max_steps": 1, "gradient_checkpointing": True, "per_device_train_batch_size": 2, "seed": 0}
    plain = trainer(copy.deepcopy(model), processor, tmp_path, **settings).train().training_loss
    nearly = trainer(copy.deepcopy(model), processor, tmp_path, label_smoothing_factor=1e-6, **settings).train().training_loss
    assert nearly == pytest.approx(plain, rel=1e-3)  # each label is that of the next token, smoothed or not


@pytest.mark.filterwarnings("ignore")
def test_layers_that_are_computed_again_keep_no_cache(model, prompt):
    learning = copy.deepcopy(model).train()
    ids = prompt["input_ids"]
    learning.gradient_checkpointing_enable()
    out = learning(**prompt, labels=ids, use_cache=True)
    out.loss.backward()
    again = copy.deepcopy(model).train()
    again(**prompt, labels=ids).loss.backward()
    torch.testing.assert_close(learning.embedding.tokens.weight.grad, again.embedding.tokens.weight.grad)


def test_pictures_of_a_batch_may_be_given_as_pipelines_give_them(processor):
    flat = processor(images=[RED, RED], text=["what", "what"])
    nested = processor(images=[[RED], [RED]], text=["what", "what"])
    np.testing.assert_array_equal(flat["input_ids"], nested["input_ids"])


def test_the_processor_comes_back_from_its_folder(folder, processor):
    again = AutoProcessor.from_pretrained(folder)
    np.testing.assert_array_equal(again(images=[RED], text="go")["input_ids"], processor(images=[RED], text="go")["input_ids"])

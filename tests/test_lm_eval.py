"""lm-evaluation-harness runs on a loaded model: tasks of a local file, scored as the model itself scores them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gato.agent import Agent
from gato.words import document_task

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the harness's own warnings
ROWS = [("the cat sat on the", [" mat", " door"], 0), ("go to the red", [" hill", " ball"], 1), ("pick up", [" the", " a"], 0)]


@pytest.fixture(scope="module")
def agent(make_gato, tokenizer) -> Agent:
    return Agent(make_gato().float(), tokenizer, {"text": document_task("text")})


@pytest.fixture(scope="module")
def harness(agent):
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="the harness was not tried: pip install lm-eval")
    return huggingface.HFLM(pretrained=agent.model, tokenizer=agent.text_tokenizer(), backend="causal", batch_size=2)


@pytest.fixture
def tasks(tmp_path, monkeypatch) -> Path:
    """A folder with a task of two endings a row, and one of continuing until a blank."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [json.dumps({"start": start, "endings": endings, "right": right}) for start, endings, right in ROWS]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    shared = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\ntest_split: test\n"
    shared += "doc_to_text: '{{start}}'\ntarget_delimiter: ''\n"
    choice = "task: endings\noutput_type: multiple_choice\ndoc_to_choice: endings\ndoc_to_target: right\nmetric_list: [{metric: acc}]\n"
    writing = "task: writing\noutput_type: generate_until\ndoc_to_target: '{{endings[0]}}'\nmetric_list: [{metric: exact_match}]\n"
    (tmp_path / "endings.yaml").write_text(choice + shared)
    (tmp_path / "writing.yaml").write_text(writing + shared + "generation_kwargs: {until: [' '], max_gen_toks: 8}\n")
    return tmp_path


def evaluated(harness, folder: Path, task: str) -> dict:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return simple_evaluate(harness, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True)


def test_endings_have_the_likelihood_that_the_model_gives_them(agent, harness, tasks):
    found = evaluated(harness, tasks, "endings")
    text, right = agent.tokenizer.text, 0
    for sample, (start, endings, wanted) in zip(found["samples"]["endings"], ROWS, strict=True):
        expected = []
        for ending in endings:
            ids, first = torch.tensor([text.encode(start + ending)]), len(text.encode(start))
            with torch.no_grad():
                predicted = agent.model(input_ids=ids).logits[0].log_softmax(dim=-1)
            expected.append(sum(float(predicted[i - 1, ids[0, i]]) for i in range(first, ids.shape[1])))
        assert [value for value, _ in sample["filtered_resps"]] == pytest.approx(expected, rel=1e-4)  # float32, batches padded otherwise
        right += int(np.argmax(expected) == wanted)
    assert found["results"]["endings"]["acc,none"] == pytest.approx(right / len(ROWS))


def test_what_is_generated_is_what_the_agent_writes(agent, harness, tasks):
    samples = evaluated(harness, tasks, "writing")["samples"]["writing"]
    written = {s["doc"]["start"]: s["resps"][0][0] for s in samples}
    for start, _, _ in ROWS:
        assert written[start] == agent.generate(start, max_new_tokens=8)[len(start) :].split(" ")[0]

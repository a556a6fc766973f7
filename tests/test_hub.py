"""`gato push` and `gato pull`, against a hub on this computer: what goes up, what comes down, and what is refused in one line."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from huggingface_hub import constants

import gato
from gato.cli import main
from gato.episode import Episode
from gato.learners.folder import BaselineAgent
from gato.learners.nearest import NearestPolicy

COMMIT = "c0ffee" + 34 * "0"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as pushing and pulling use; everything is a plain file and one commit."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict[str, bytes]]
    asked: list[str]

    def log_message(self, *_):
        pass

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(path)
        if self.headers.get("Authorization") != "Bearer a-token":
            self.answer({"error": "who are you?"}, 401)
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            is_private = wanted.get("private", wanted.get("visibility") == "private")  # older and newer clients
            self.repositories.setdefault(f"{wanted['organization']}/{wanted['name']}", {})["private"] = is_private
            self.answer({"url": f"{constants.ENDPOINT}/{wanted['organization']}/{wanted['name']}"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            self.answer({"files": files})
        else:
            name = "/".join(path.split("/")[3:5])
            files = self.repositories[name]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del files[line["value"]["path"]]
            self.answer({"commitOid": COMMIT, "commitUrl": f"{constants.ENDPOINT}/{name}/commit/{COMMIT}", "success": True})

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        parts = path.split("/")
        name = "/".join(parts[3:5] if parts[1] == "api" else parts[1:3])
        if name not in self.repositories:
            self.answer({"error": "not found"}, 404, X_Error_Code="RepoNotFound")
            return
        files = {file: data for file, data in self.repositories[name].items() if isinstance(data, bytes)}
        if "/resolve/" in path:
            data = files[parts[-1]]
            self.answer(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"')
        elif "/tree/" in path:
            self.answer([{"type": "file", "path": f, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for f, d in files.items()])
        elif parts[5:6] == ["revision"] and parts[6] not in ("main", COMMIT):
            self.answer({"error": "not found"}, 404, X_Error_Code="RevisionNotFound")
        else:
            siblings = [{"rfilename": file, "size": len(data)} for file, data in files.items()]
            self.answer({"id": name, "sha": COMMIT, "siblings": siblings, "private": True})

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch):
    """The hub's repositories by name, `{file: bytes}`, for the time of a test the hub that everybody is sent to."""
    kind = type("OneHub", (Hub,), {"repositories": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", "http://{}:{}".format(*server.server_address))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "a-token")
    yield kind
    server.shutdown()
    server.server_close()


@pytest.fixture
def policy(corridor, tmp_path, monkeypatch):
    """A folder with a policy of two timesteps, in a run's, with what no hub should have: an evaluation and training state."""
    monkeypatch.chdir(tmp_path)
    seen, done = {"position": np.array([0, 1])}, {"direction": np.array([1, 0])}
    names = [spec.name for spec in (*corridor.observations, *corridor.actions)]
    episode = Episode(corridor, {names[0]: seen["position"]}, {names[1]: done["direction"]}, np.zeros(2, np.float32))
    folder = tmp_path / "runs" / "walker" / "final"
    BaselineAgent(NearestPolicy.of(corridor, [episode]), 1).save(folder)
    row = {"task": corridor.name, "ablation": None, "mean": 0.5, "low": 0.25, "high": 0.75, "episodes": 20}
    (folder / "eval.json").write_text(json.dumps({"tasks": [row]}))
    (folder / "optimizer.safetensors").write_bytes(b"state")
    return folder


def test_a_policy_goes_up_with_its_card_and_comes_down_the_same(hub, policy, corridor, capsys):
    assert main(["push", str(policy), "somebody/walker"]) == 0
    assert capsys.readouterr().out == f"{constants.ENDPOINT}/somebody/walker\n"
    there = hub.repositories["somebody/walker"]
    assert set(there) == {"baseline.json", "model.safetensors", "README.md", "private"} and there["private"] is True
    card = there["README.md"].decode()
    assert "gato pull somebody/walker walker" in card and "- toy/corridor: return 0.5 [0.25, 0.75] over 20 episodes" in card
    there["evil.py"], there["weights.bin"] = b"import os", b"a pickle"

    assert main(["pull", "somebody/walker"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("walker: 3 files, ") and out.endswith(f"commit {COMMIT}; left there: evil.py, weights.bin\n")
    assert sorted(path.name for path in (policy.parents[2] / "walker").iterdir()) == ["README.md", "baseline.json", "model.safetensors"]
    assert (policy.parents[2] / "walker" / "model.safetensors").read_bytes() == (policy / "model.safetensors").read_bytes()
    one, two = (gato.load(folder).policy(corridor.name) for folder in ("walker", policy))
    assert [one.act_one(place) for place in (0, 1)] == [two.act_one(place) for place in (0, 1)]


def test_a_gato_goes_up_without_its_training_and_older_shards_go(hub, make_gato, tokenizer, corridor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gato.Agent(make_gato(context_length=32).float(), tokenizer, {corridor.name: corridor}).save("final")
    (tmp_path / "final" / "rng.safetensors").write_bytes(b"state")
    hub.repositories["somebody/gato"] = {"model-00001-of-00002.safetensors": b"old", "notes.txt": b"mine", ".gitattributes": b""}
    assert main(["push", "final", "somebody/gato", "--public"]) == 0
    there = hub.repositories["somebody/gato"]
    assert "rng.safetensors" not in there and "model-00001-of-00002.safetensors" not in there
    assert there["notes.txt"] == b"mine" and there["private"] is False
    assert main(["pull", "somebody/gato", "deep/copy", "--revision", "main"]) == 0
    assert main(["validate", "deep/copy"]) == 0


def test_what_would_go_up_is_shown_without_asking_anybody(hub, policy, capsys):
    assert main(["push", str(policy), "somebody/walker", "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["files"]) == {"baseline.json", "model.safetensors", "README.md"} and shown["card"].startswith("---\n")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["push", "runs/walker/final", "walker"], "'walker' is no repository of a hub, expected OWNER/NAME"),
        (["push", "runs/walker", "a/b"], "'runs/walker' is not a checkpoint: it has no gato.json"),
        (["pull", "nobody/nothing"], "there is no 'nobody/nothing' at http"),
        (["pull", "a/photos"], "'a/photos' holds no checkpoint of this package: it has neither gato.json nor baseline.json"),
        (["pull", "a/broken"], "what came of 'a/broken' does not open: 'a/broken/model.safetensors' is not what was saved"),
        (["pull", "a/broken", "--revision", "v9"], "'a/broken' has no such revision"),
        (["pull", "a/broken", "runs"], "'runs' exists; name another folder, or remove it"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_leaves_nothing(hub, policy, words, message, capsys):
    before = sorted(policy.parents[2].rglob("*"))
    hub.repositories |= {
        "a/photos": {"cat.json": b"{}"},
        "a/broken": {"baseline.json": (policy / "baseline.json").read_bytes(), "model.safetensors": b"half"},
    }
    assert main(words) == 2
    *bars, line = capsys.readouterr().err.strip().splitlines()
    assert message in line and not any("gato:" in bar or "Traceback" in bar for bar in bars)
    assert sorted(policy.parents[2].rglob("*")) == before


def test_a_stranger_a_set_switch_and_a_silent_hub_are_told_apart(hub, policy, monkeypatch, capsys):
    push = ["push", str(policy), "somebody/walker"]
    monkeypatch.setenv("HF_TOKEN", "another")
    assert main(push) == 2
    assert "status 401; log in with 'hf auth login', or set HF_TOKEN" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(push) == 2
    assert "HF_HUB_OFFLINE is set, so no hub is asked" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", constants.ENDPOINT.rpartition(":")[0] + ":9")  # a port where nobody listens
    for words in (push, ["pull", "somebody/walker"]):
        assert main(words) == 2
        assert f"the hub at {constants.ENDPOINT} is not reached (" in capsys.readouterr().err

"""`gato serve`: what clients send and get, over HTTP and the websocket protocol of openpi's client."""

import asyncio
import base64
import importlib.util
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image

import gato
from gato import envs
from gato.agent import Agent
from gato.cli import main
from gato.data.store import Store, StoreWriter
from gato.episode import Episode
from gato.eval.rollout import rollout
from gato.learners.chunks import ChunkPolicy
from gato.learners.decision_agent import DecisionAgent
from gato.learners.decision_config import DecisionConfig
from gato.learners.folder import BaselineAgent, learned
from gato.learners.nearest import NearestPolicy
from gato.learners.trajectory import TrajectoryStatistics
from gato.serve.batcher import Batcher, Busy
from gato.serve.demonstrated import Demonstrated
from gato.serve.metrics import Metrics
from gato.serve.settings import ServeConfig
from gato.serve.wire import Refused, read_msgpack, read_observation, write_msgpack
from gato.spec import FieldSpec, Modality, TaskSpec
from gato.words import caption_task, document_task, question_task

pytest.importorskip("starlette", reason="serving was not tried: pip install 'opengato[serve]'")
from starlette.testclient import TestClient

from gato.serve.app import make_app
from gato.serve.service import Service

ROOT = Path(__file__).parent.parent
HERE = {"Host": "127.0.0.1"}  # the test client's own name is none of this computer
WORDS = (caption_task("captions", (16, 32)), question_task("vqa", (16, 32)), document_task("text"))


@pytest.fixture(scope="module")
def agent(make_gato, tokenizer, robot, corridor) -> Agent:
    return Agent(make_gato(context_length=96).float(), tokenizer, {t.name: t for t in (robot, corridor, *WORDS)})


@pytest.fixture(scope="module")
def service(agent):
    made = Service(agent, "tiny", ServeConfig(sessions=4))
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(service):
    with TestClient(make_app(service, None, True), headers=HERE) as found:
        yield found


@pytest.fixture
def served():
    """served(agent, sessions=1): a client of a server of its own."""
    made = []

    def make(agent, token=None, is_local=True, demonstrated=(), **settings):
        service = Service(agent, "tiny", ServeConfig(**settings), demonstrated)
        made.append(service)
        return TestClient(make_app(service, token, is_local), headers=HERE)

    yield make
    for service in made:
        service.close()


def array(values, dtype) -> dict:
    """As openpi-client packs one."""
    values = np.asarray(values, dtype)
    return {b"__ndarray__": True, b"data": values.tobytes(), b"dtype": values.dtype.str, b"shape": values.shape}


def unpacked(data: bytes) -> dict:
    """As openpi-client reads what comes."""

    def hook(found):
        if b"__ndarray__" in found:
            return np.ndarray(buffer=found[b"data"], dtype=np.dtype(found[b"dtype"]), shape=found[b"shape"])
        return np.dtype(found[b"dtype"]).type(found[b"data"]) if b"__npgeneric__" in found else found

    return msgpack.unpackb(data, object_hook=hook)


class Robot:
    """What openpi-client does over a websocket of the test client."""

    def __init__(self, socket) -> None:
        self.socket, self.metadata = socket, unpacked(socket.receive_bytes())

    def infer(self, message: dict) -> dict:
        self.socket.send_bytes(msgpack.packb(message))
        answer = self.socket.receive()
        if "text" in answer and answer["text"] is not None:
            raise RuntimeError(answer["text"])
        return unpacked(answer["bytes"])


def seen(robot: TaskSpec, seed: int) -> dict:
    """An observation of the robot, as an environment gives it."""
    rng = np.random.default_rng(seed)
    camera = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
    return {"camera": camera, "goal": "go to the red ball", "gripper": {"force": np.float32(rng.normal()), "open": int(rng.integers(2))}}


def sent(observation: dict) -> dict:
    force = observation["gripper"]["force"]
    gripper = {"force": {b"__npgeneric__": True, b"data": float(force), b"dtype": "<f4"}, "open": observation["gripper"]["open"]}
    return {"camera": array(observation["camera"], np.uint8), "goal": observation["goal"], "gripper": gripper}


# -- acting over the websocket -------------------------------------------------------------------------------


def test_served_episodes_are_those_that_the_policy_plays(client, agent, robot):
    """Two episodes of three timesteps; chance of the second is not that of the first."""
    policy = agent.policy("toy/robot")
    with client.websocket_connect("/?task=toy/robot") as socket:
        served = Robot(socket)
        assert set(served.metadata["tasks"]) == {"toy/robot", "toy/corridor"} and served.metadata["context_length"] == 96
        policy.reset(1)
        for episode in range(2):
            for t in range(3):
                observation = seen(robot, 10 * episode + t)
                answer = served.infer(sent(observation) | ({"reset": True} if t == 0 else {}))
                batch = {f.name: np.array([v], f.dtype if f.dtype != "str" else object) for f, v in _flat(robot, observation)}
                (expected,) = policy.act(batch, first=np.array([t == 0]))["motors"]
                assert answer["action"].tolist() == expected.tolist()
                assert answer["actions"].shape == (1, 2) and answer["server_timing"]["infer_ms"] > 0


def _flat(task, observation):
    flat = task.flatten(observation, "observation")
    return [(f, flat[f.name]) for f in task.observations]


def test_an_episode_can_be_asked_for_by_its_number(served, agent):
    policy = agent.policy("toy/corridor", temperature=5.0)
    for _ in range(3):  # the three before it
        policy.act({"cell": np.array([0])}, first=np.array([True]))
    expected = [int(policy.act({"cell": np.array([0])}, first=np.array([t == 0]))["step"][0]) for t in range(12)]
    with served(agent, temperature=5.0).websocket_connect("/?task=toy/corridor") as socket:
        robot = Robot(socket)
        found = [int(robot.infer({"cell": 0} | ({"episode": 3} if t == 0 else {}))["action"]) for t in range(12)]
    assert found == expected and len(set(found)) == 2


def test_robots_of_several_tasks_and_sessions_do_not_disturb_each_other(client, robot):
    """Interleaved, each acts as it does alone."""

    def alone(task: str, messages: list[dict]) -> list:
        with client.websocket_connect(f"/?task={task}") as socket:
            served = Robot(socket)
            return [np.asarray(served.infer(m)["action"]).tolist() for m in messages]

    cells, rooms = [{"cell": i % 2} for i in range(6)], [sent(seen(robot, i)) for i in range(6)]
    with (
        client.websocket_connect("/?task=toy/corridor") as a, client.websocket_connect("/?task=toy/corridor") as b,
        client.websocket_connect("/?task=toy/robot") as c,
    ):  # fmt: skip
        robots = [(Robot(a), cells, []), (Robot(b), cells[::-1], []), (Robot(c), rooms, [])]
        for t in range(6):
            for served, messages, actions in robots:
                actions.append(np.asarray(served.infer(messages[t])["action"]).tolist())
    assert robots[0][2] == alone("toy/corridor", cells)
    assert robots[1][2] == alone("toy/corridor", cells[::-1])
    assert robots[2][2] == alone("toy/robot", rooms)


def test_a_connection_may_change_its_task(client, robot):
    with client.websocket_connect("/") as socket:
        served = Robot(socket)
        with pytest.raises(RuntimeError, match="no task is named, and there is no default; add task, one of toy/corridor, toy/robot"):
            served.infer({"cell": 0})
        assert served.infer({"cell": 0, "task": "toy/corridor"})["actions"].shape == (1,)
        assert served.infer(sent(seen(robot, 0)) | {"task": "toy/robot"})["actions"].shape == (1, 2)
        assert served.infer(sent(seen(robot, 1)))["actions"].shape == (1, 2)


def test_the_bytes_of_openpis_client_are_read():
    """What openpi_client 0.1.2 packs of {"cell": np.int64(1), "reset": True} and of a 2 x 2 picture."""
    plain = b"\x82\xa4cell\x83\xc4\r__npgeneric__\xc3\xc4\x04data\x01\xc4\x05dtype\xa3<i8\xa5reset\xc3"
    found = read_msgpack(plain)
    assert (found["cell"].item(), found["cell"].dtype, found["reset"]) == (1, np.int64, True)
    picture = b"\x81\xa6camera\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x04\x00\x01\x02\x03\xc4\x05dtype\xa3|u1\xc4\x05shape\x92\x02\x02"
    assert read_msgpack(picture)["camera"].tolist() == [[0, 1], [2, 3]]
    assert unpacked(write_msgpack({"action": np.int64(1), "actions": np.array([1])}))["action"] == 1


# -- what is refused ---------------------------------------------------------------------------------------------

NESTED = b"\x81\xa4cell" + b"\x91" * 10_000
HOSTILE = [
    (b"", "no msgpack map"),
    (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os", "a pickle is never opened"),
    (msgpack.packb([1, 2]), "the message is of type list, expected a map"),
    (msgpack.packb({1: 2}), "no msgpack map"),
    (msgpack.packb({}), "holds no observation"),
    (b"\xdf\xff\xff\xff\xff", "no msgpack map"),
    (b"\x81\xa4cell\xdd\xff\xff\xff\xff", "no msgpack map"),
    (b"\x81\xa4cell\xc6\x7f\xff\xff\xff", "no msgpack map"),
    (b"\x81\xa4cell\xc7\x04\x07abcd", "msgpack extension of type 7"),
    (NESTED, "no msgpack map"),
    ({"cell": [[[0]]]}, r"has shape \(1, 1, 1\), expected \(\)"),
    ({"cell": "zero"}, "is 'zero', expected an array of numbers"),
    ({"cell": None}, "is None, expected an array of numbers"),
    ({"cell": 2}, r"is 2, outside \[0, 1\]"),
    ({"cell": -(2**63)}, r"outside \[0, 1\]"),
    ({"cell": 2**64 - 1}, "which int64 does not hold"),
    ({"cell": 0.5}, "has dtype float64, expected int64"),
    ({"cell": float("nan")}, "has dtype float64"),
    ({"cell": [[0], [0, 1]]}, "a list that is no array of numbers"),
    ({"cel": 0}, "'cell' is missing; task 'toy/corridor' expects cell"),
    ({"cell": 0, "cel": 0}, "no observation 'cel'; did you mean 'cell'"),
    ({"cell": 0, "reset": 1}, "reset is 1, expected true or false"),
    ({"cell": 0, "episode": -1}, "episode is -1"),
    ({"cell": 0, "reward": "much"}, "reward is 'much'"),
    ({"cell": 0, "reward": float("inf")}, "reward is inf"),
    ({"cell": 0, "task": "toy/coridor"}, "did you mean 'toy/corridor'"),
    ({"cell": 0, "task": "captions"}, "expected the name of a task with actions"),
    ({"cell": 0, "task": ["toy/corridor"]}, "expected the name of a task"),
    ({"cell": array([0], "<i8") | {b"shape": [2**39]}}, "has 8 bytes, expected"),
    ({"cell": array([0], "<i8") | {b"shape": [-1]}}, "shape is"),
    ({"cell": array([0], "<i8") | {b"shape": [1] * 40}}, "at most 8 whole numbers"),
    ({"cell": array([0], "<i8") | {b"dtype": "O"}}, "dtype is 'O', expected numbers"),
    ({"cell": array([0], "<i8") | {b"dtype": "<c16"}}, "dtype is '<c16'"),
    ({"cell": array([0], "<i8") | {b"dtype": [["a", "<i8"]]}}, "dtype is"),
    ({"cell": array([0], "<i8") | {b"data": "zero"}}, "expected bytes"),
    ({"cell": {b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}}, "which dtype |u1 does not hold"),
    ({"cell": {b"__npgeneric__": True, b"data": b"x", b"dtype": "|V1"}}, "expected a number, true or false"),
]


def test_every_hostile_message_is_refused_in_one_line_and_the_session_goes_on(client):
    with client.websocket_connect("/?task=toy/corridor") as socket, client.websocket_connect("/?task=toy/corridor") as other:
        served, calm = Robot(socket), Robot(other)
        expected = [int(calm.infer({"cell": 0})["action"]) for _ in range(len(HOSTILE) + 1)]
        found = [int(served.infer({"cell": 0})["action"])]
        for message, line in HOSTILE:
            started = time.monotonic()
            socket.send_bytes(message if isinstance(message, bytes) else msgpack.packb(message))
            said = socket.receive()["text"]
            assert time.monotonic() - started < 1 and "\n" not in said and "Traceback" not in said and len(said) <= 2000
            with pytest.raises(AssertionError, match=line):
                raise AssertionError(said)
            found.append(int(served.infer({"cell": 0})["action"]))
        socket.send_text("{}")
        assert "send msgpack in binary frames" in socket.receive()["text"]
    assert found == expected


def test_values_that_the_fields_own_type_does_not_hold_are_refused(robot):
    observation = {**seen(robot, 0), "gripper": {"force": 1e300, "open": 0}}
    with pytest.raises(Refused, match="'gripper/force' at timestep 7 is 1e.300, which float32 cannot hold"):
        read_observation(robot, observation, 7)
    with pytest.raises(Refused, match="'camera' has shape"):
        read_observation(robot, seen(robot, 0) | {"camera": np.zeros((16, 32, 4), np.uint8)})
    with pytest.raises(Refused, match="has 5000 characters, at most 4000"):
        read_observation(robot, seen(robot, 0) | {"goal": "x" * 5000})
    with pytest.raises(Refused, match="which uint8 does not hold"):
        read_observation(robot, seen(robot, 0) | {"camera": np.full((16, 32, 3), 256)})


def test_observations_are_named_flat_or_nested_and_become_the_fields_own_types(robot):
    nested = seen(robot, 1)
    flat = {"camera": nested["camera"], "goal": nested["goal"], "gripper/force": 1, "gripper/open": True}
    for message in (flat, {"observation": {**nested, "gripper": {"force": 1.0, "open": 1}}}):
        row = read_observation(robot, message)
        assert [(row[f.name].shape, row[f.name].dtype) for f in robot.observations[2:]] == [((1,), np.float32), ((1,), np.int64)]
    bare = TaskSpec("toy/bare", (FieldSpec("observation", Modality.CONTINUOUS, "observation", (2,)), robot.actions[0]))
    assert read_observation(bare, {"observation": [1, 2]})["observation"].tolist() == [[1, 2]]


def test_a_text_that_no_context_holds_is_refused_and_the_others_of_its_batch_are_answered(service, robot):
    acting = service.acting
    sessions = [acting.open(robot) for _ in range(3)]
    goals = ["go", "go to the red ball " * 60, "open the door"]
    asked = [acting.ask(s, {}, {**seen(robot, 5), "goal": goal}) for s, goal in zip(sessions, goals, strict=True)]
    answers = acting.answer(asked)
    assert isinstance(answers[1], Refused) and "the context 96" in str(answers[1])
    alone = [acting.answer([request])[0]["action"].tolist() for request in (asked[0], asked[2])]
    assert [answers[0]["action"].tolist(), answers[2]["action"].tolist()] == alone
    for session in sessions:
        acting.leave(session)


# -- several at once ------------------------------------------------------------------------------------------------


def test_what_waits_is_answered_together_and_what_does_not_fit_in_line_is_refused():
    begun, go, sizes = threading.Event(), threading.Event(), []

    def work(requests):
        sizes.append(len(requests))
        begun.set()
        go.wait(10)
        return [ValueError("three") if r == 3 else 2 * r for r in requests]

    batcher = Batcher(work, most=3, waiting=4)

    async def asked():
        first = batcher.submit(0)
        assert begun.wait(10)
        rest = [batcher.submit(i) for i in (1, 2, 3, 4)]
        with pytest.raises(Busy, match="4 requests wait already"):
            batcher.submit(5)
        go.set()
        return await asyncio.wait_for(asyncio.gather(first, *rest, return_exceptions=True), 10)

    answers = asyncio.run(asked())
    assert answers[:3] == [0, 2, 4] and answers[4] == 8 and str(answers[3]) == "three"
    batcher.close()
    assert sizes == [1, 3, 1]


def test_whoever_has_left_is_not_answered_and_the_others_are():
    go = threading.Event()
    batcher = Batcher(lambda requests: go.wait(10) and requests, most=4, waiting=4)

    async def asked():
        held, gone, rest = (batcher.submit(i) for i in range(3))
        gone.cancel()
        go.set()
        return [await asyncio.wait_for(future, 10) for future in (held, rest)]

    assert asyncio.run(asked()) == [0, 2]
    batcher.close()


def test_a_request_waits_for_as_many_as_are_expected_and_no_longer_than_it_may():
    sizes = []
    batcher = Batcher(lambda r: sizes.append(len(r)) or r, most=8, waiting=8, patience=5.0, expected=lambda: 2)

    async def asked(*requests):
        return await asyncio.wait_for(asyncio.gather(*map(batcher.submit, requests)), 2)

    assert asyncio.run(asked(0, 1)) == [0, 1] and sizes == [2]
    batcher.patience = 0.05
    started = time.monotonic()
    assert asyncio.run(asked(7)) == [7] and 0.04 < time.monotonic() - started < 1
    batcher.close()


def test_robots_that_ask_together_share_a_forward_pass(service):
    """Eight requests of four sessions, of which every one waits for the other three."""
    acting = service.acting
    sessions = [acting.open(acting.tasks["toy/corridor"]) for _ in range(4)]
    batcher = Batcher(acting.answer, most=8, waiting=8, patience=2.0, expected=lambda: 4)
    before = service.metrics.text()

    async def asked():
        return await asyncio.gather(*(batcher.submit(acting.ask(session, {}, {"cell": 0})) for session in sessions))

    assert {set(answer) == {"actions", "action"} for answer in asyncio.run(asked())} == {True}
    batcher.close()
    for session in sessions:
        acting.leave(session)
    assert _value(service.metrics.text(), "gato_batch_size_sum") - _value(before, "gato_batch_size_sum") == 4
    assert _value(service.metrics.text(), "gato_batch_size_count") - _value(before, "gato_batch_size_count") == 1


def _value(text: str, name: str) -> float:
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)


def test_more_robots_than_there_are_places_for_are_told_that_it_is_busy(served, agent):
    client = served(agent, sessions=1, connections=2)
    with client.websocket_connect("/?task=toy/corridor") as a:
        Robot(a).infer({"cell": 0})
        with client.websocket_connect("/?task=toy/corridor") as b:
            with pytest.raises(RuntimeError, match="busy: all 1 sessions of task 'toy/corridor' are taken"):
                Robot(b).infer({"cell": 0})
            answer = client.post("/act", json={"task": "toy/corridor", "cell": 0})
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    with client.websocket_connect("/?task=toy/corridor") as a:  # the place is free again
        assert Robot(a).infer({"cell": 0})["actions"].shape == (1,)


# -- HTTP -------------------------------------------------------------------------------------------------------------


def test_a_session_of_http_has_a_memory_and_acts_as_the_websocket_does(client, robot):
    messages = [seen(robot, i) for i in range(3)]
    with client.websocket_connect("/?task=toy/robot") as socket:
        served = Robot(socket)
        expected = [served.infer(sent(m))["action"].tolist() for m in messages]
    found = []
    for i, m in enumerate(messages):
        camera = base64.b64encode(m["camera"].tobytes()).decode()
        observation = {"camera": {"__numpy__": camera, "dtype": "|u1", "shape": [16, 32, 3]}, "goal": m["goal"]}
        observation |= {"gripper/force": float(m["gripper"]["force"]), "gripper/open": m["gripper"]["open"]}
        body = {"task": "toy/robot", "session": "arm-1", "observation": observation, "end": i == 2}
        if i == 1:
            body["observation"]["camera"] = m["camera"].tolist()
        answer = client.post("/act", json=body)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["action"])
    assert np.allclose(found, expected, atol=1e-6)


def test_requests_of_http_are_refused_with_a_status_and_a_line(client):
    def asked(method="POST", path="/act", **rest):
        answer = client.request(method, path, **rest)
        return answer.status_code, answer.json()["error"]

    assert asked(content=b"[" * 100_000)[0] == 400
    assert asked(content=b'{"cell": 0')[1].startswith("the request is no JSON object")
    assert asked(json={"cell": 0, "session": "a b"})[1].startswith("session is 'a b'")
    assert asked(json={"cell": {"__numpy__": "?", "dtype": "<i8", "shape": []}})[1] == "an array's '__numpy__' is no base64 of its bytes"
    assert asked(content=b"x" * 10, headers={"content-encoding": "gzip"})[0] == 415
    assert asked(content=b"x" * 300_000)[0] == 413
    assert asked(content=iter([b"x" * 200_000] * 2))[0] == 413  # its length is not announced
    assert asked("GET")[0] == 405 and asked(path="/nothing")[0] == 404
    assert asked(path="/generate", json={"text": "go", "tokens": 3})[1].startswith("/generate has no setting 'tokens'")
    assert asked(path="/generate", json={"text": "go", "max_new_tokens": 10**6})[1].startswith("'max_new_tokens' is 1000000")
    for name in ("max_new_tokens", "temperature", "seed"):  # beyond the largest float
        assert asked(path="/generate", json={"text": "go", name: 10**400})[1].startswith(f"'{name}' is 1000000")
    assert asked(json={"cell": 0, "task": "toy/corridor", "reward": 10**400})[1].startswith("reward is 1000000")
    assert asked(path="/generate", json={"text": "go " * 200})[1].startswith("the prompt has")
    assert "no readable picture" in asked(path="/caption", content=b"no picture")[1]
    assert asked(path="/caption", json={"image": "?"})[1] == "image is missing or no base64 of a picture's file"


def test_captions_answers_and_texts_are_those_of_the_agent(client, agent):
    files = []
    for seed in range(3):
        content = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(content, "PNG")
        files.append(content.getvalue())
    with ThreadPoolExecutor(3) as pool:  # those that wait together share a batch
        found = list(pool.map(lambda file: client.post("/caption?max_new_tokens=12", content=file).json(), files))
    assert [f["caption"] for f in found] == [agent.caption(file, max_new_tokens=12) for file in files]
    body = {"image": base64.b64encode(files[0]).decode(), "question": "what", "max_new_tokens": 5, "temperature": 1.0, "seed": 3}
    expected = agent.answer(files[0], "what", max_new_tokens=5, temperature=1.0, seed=3)
    assert client.post("/caption", json=body).json() == {"caption": expected}
    text = client.post("/generate", json={"text": "go to", "max_new_tokens": 6}).json()
    assert text["text"] == agent.generate("go to", 6) == text["prompt"] + text["continuation"]


def test_metrics_and_metadata_are_plain(client):
    client.post("/act", json={"task": "toy/corridor", "cell": 0})
    text = client.get("/metrics").text
    assert 'gato_requests_total{outcome="answered",route="act"}' in text and "# TYPE gato_request_seconds histogram" in text
    assert client.get("/healthz").text == "OK\n"
    assert client.get("/metadata").json()["words"] == {"captions": True, "answers": True, "text": True}


def test_a_histogram_counts_what_is_at_most_each_bound():
    metrics = Metrics()
    metrics.histogram("h", "of times", (1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        metrics.observe("h", value, route='a"b')
    lines = [line for line in metrics.text().splitlines() if not line.startswith("#")]
    assert [line.split()[-1] for line in lines] == ["2", "3", "4", "12", "4"] and r'route="a\"b"' in lines[0]


# -- who may come in ------------------------------------------------------------------------------------------------------


def test_where_no_server_listens_a_client_says_so():
    from gato.serve.client import RemotePolicy

    with pytest.raises(
        ConnectionError, match="no server answers at ws://127.0.0.1:9: ConnectionRefusedError: .*; start one with 'gato serve'"
    ):
        RemotePolicy("127.0.0.1:9")


def test_without_the_token_nobody_comes_in_but_for_the_health(served, agent):
    client = served(agent, token="a-long-token", is_local=False)
    assert client.get("/healthz").status_code == 200
    assert client.get("/metadata").status_code == 401
    assert client.get("/metadata", headers={"Authorization": "Bearer a-long-token"}).status_code == 200
    assert client.get("/metadata", headers={"Authorization": "Bearer another"}).status_code == 401
    from starlette.testclient import WebSocketDenialResponse

    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/"):
        pass
    assert refused.value.status_code == 401
    with client.websocket_connect("/", headers={"Authorization": "Api-Key a-long-token"}) as socket:
        assert Robot(socket).metadata["checkpoint"] == "tiny"


def test_on_this_computer_web_pages_of_others_are_turned_away(client):
    for host in ("rebound.example:8000", "testserver"):  # whatever a name may lead to
        assert client.get("/metadata", headers={"Host": host}).status_code == 403
    assert client.get("/metadata", headers={"Origin": "http://elsewhere.example"}).status_code == 403
    assert client.get("/metadata", headers={"Host": "[::1]:8000"}).status_code == 200


# -- other learners, and the end -----------------------------------------------------------------------------------------


def test_a_retrieval_policy_is_served_and_says_that_it_has_no_words(served, walk):
    client = served(BaselineAgent(NearestPolicy.of(walk([0], [1]).task, [walk([0, 1], [1, 0])])))
    assert [client.post("/act", json={"cell": cell}).json()["action"] for cell in (0, 1)] == [1, 0]
    assert client.post("/generate", json={"text": "go"}).json()["error"].startswith("'tiny' acts and has no words")
    assert client.get("/metadata").json()["default_task"] == "toy/corridor"


def test_a_task_that_the_checkpoint_never_saw_is_acted_in_by_its_demonstrations(served, agent, tmp_path):
    """A counter that the robot and the corridor are not: its expert pushes by as much as it sees."""
    seen_, push = (FieldSpec(n, Modality.CONTINUOUS, r, (), "float32", (-1.0,), (1.0,)) for n, r in (("x", "observation"), ("u", "action")))
    task, values = TaskSpec("toy/mirror", (seen_, push)), np.linspace(-1, 1, 9, dtype=np.float32)
    with StoreWriter(tmp_path / "mirror", [task]) as writer:
        writer.append(Episode(task, {"x": values}, {"u": values}, np.zeros(9, np.float32)))
        writer.append(Episode(task, {"x": values}, {"u": -values}, np.zeros(9, np.float32), behaviour="random"))
    found = {}
    for by in ("retrieve", "prompt"):
        demonstrated = Demonstrated(agent, tmp_path / "mirror", by)
        assert (len(demonstrated.episodes), demonstrated.left_out) == (1, 1)
        client = served(agent, demonstrated=[demonstrated])
        found[by] = [client.post("/act", json={"x": x}).json()["action"] for x in (-1, 0.49)]
        assert set(client.get("/metadata").json()["tasks"]) == {"toy/robot", "toy/corridor", "toy/mirror"}
    assert found["retrieve"] == [-1, 0.5]
    asked = Demonstrated(agent, tmp_path / "mirror", "retrieve").policy(target_return=3.0)  # the checkpoint is asked for it, not this
    assert asked.task == task
    policy = agent.policy(task, memory=0, prompt=demonstrated.episodes[0])
    assert found["prompt"][0] == pytest.approx(float(policy.act({"x": np.float32([-1])})["u"][0]))


def test_chunks_are_answered_whole_and_played_by_the_client(walk, listening):
    from gato.serve.client import RemotePolicy

    shown = walk([0, 0, 1, 1], [0, 1, 1, 0])
    agent = learned("retrieve", shown.task, [shown], chunk=3)
    with RemotePolicy(f"127.0.0.1:{listening(agent)}", chunks=True) as chunks:
        assert chunks.metadata["chunks"] == {"toy/corridor": 3} and chunks.length == 3
        assert chunks.act({"cell": np.array([0])})["step"].tolist() == [[0, 1, 1]]
        policy = ChunkPolicy(chunks, chunks.length, every=3)
        assert [int(policy.act({"cell": np.array([c])})["step"][0]) for c in (0, 1, 1, 1)] == [0, 1, 1, 1]
    with RemotePolicy(chunks.address) as single:
        assert [int(single.act({"cell": np.array([c])})["step"][0]) for c in (0, 1, 1)] == [0, 1, 1]


def test_demonstrations_of_no_one_task_are_refused(agent, walk, tmp_path):
    with StoreWriter(tmp_path / "walk", [walk([0], [1]).task]) as writer:
        writer.append(walk([0, 1], [1, 0]))
    with pytest.raises(ValueError, match="by is 'luck', expected one of retrieve, knn"):
        Demonstrated(agent, tmp_path / "walk", "luck")
    with pytest.raises(ValueError, match="a prompt to a Gato, or to"):
        Demonstrated(object(), tmp_path / "walk", "prompt")


def test_a_decision_transformer_asks_for_the_reward(served, corridor):
    config = DecisionConfig(num_layers=1, num_heads=1, width=8, context=4)
    statistics = TrajectoryStatistics({}, {}, {"0.0": 0.0, "1.0": 1.0}, 1.0, 1, 8)
    from gato.learners.decision_transformer import DecisionTransformer

    client = served(DecisionAgent(DecisionTransformer(corridor, config, statistics, 8)))
    assert client.post("/act", json={"cell": 0, "session": "a"}).status_code == 200
    assert "add reward" in client.post("/act", json={"cell": 0, "session": "a"}).json()["error"]
    assert client.post("/act", json={"cell": 0, "session": "a", "reward": 1}).status_code == 200


def test_the_end_answers_what_was_asked_and_takes_nothing_more(served, agent):
    client = served(agent)
    service = client.app.app.state.service
    work, go = service.actions.work, threading.Event()
    service.actions.work = lambda requests: go.wait(10) and work(requests)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/act", json={"task": "toy/corridor", "cell": 0})
        while not service.num_answering:
            time.sleep(0.001)
        service.is_leaving = True
        late = client.post("/act", json={"task": "toy/corridor", "cell": 0})
        assert (late.status_code, late.json()["error"]) == (503, "the server is shutting down")
        go.set()
        assert asked.result(10).status_code == 200


def test_a_session_that_waits_for_an_answer_keeps_its_place_whatever_it_asks_next(served, agent, robot):
    """Else another client would act in the stream of the one that waits."""
    client = served(agent, sessions=1)
    service = client.app.app.state.service
    work, go = service.actions.work, threading.Event()
    service.actions.work = lambda requests: [go.wait(5), work(requests)][1]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/act", json={"task": "toy/corridor", "session": "a", "cell": 0})
        while not any(session.is_busy for session in list(service.acting._sessions)):
            time.sleep(0.001)
        other = client.post("/act", json={"task": "toy/robot", "session": "a", "observation": seen_as_json(robot)})
        assert (other.status_code, other.json()["error"][:40]) == (503, "busy: the last request of this session i")
        second = client.post("/act", json={"task": "toy/corridor", "session": "b", "cell": 0})
        assert "all 1 sessions of task 'toy/corridor' are taken" in second.json()["error"]
        go.set()
        assert asked.result(10).status_code == 200
    assert client.post("/act", json={"task": "toy/robot", "session": "a", "observation": seen_as_json(robot)}).status_code == 200
    assert client.post("/act", json={"task": "toy/corridor", "session": "b", "cell": 0}).status_code == 200


def seen_as_json(robot: TaskSpec) -> dict:
    observation = seen(robot, 0)
    gripper = {"force": float(observation["gripper"]["force"]), "open": observation["gripper"]["open"]}
    return observation | {"camera": observation["camera"].tolist(), "gripper": gripper}


def test_a_fault_of_ours_is_one_line_and_the_server_goes_on(served, agent):
    client = served(agent)
    service = client.app.app.state.service
    act, service.actions.work = service.actions.work, lambda requests: 1 / 0
    with client.websocket_connect("/?task=toy/corridor") as socket:
        served_ = Robot(socket)
        with pytest.raises(RuntimeError, match="^this is a fault of the server, not of the request$"):
            served_.infer({"cell": 0})
        service.actions.work = act
        assert served_.infer({"cell": 0})["actions"].shape == (1,)


# -- over real sockets ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listening():
    """listening(agent): the port of a server of its own."""
    pytest.importorskip("websockets", reason="sockets were not tried: pip install 'opengato[serve]'")
    from gato.serve.server import make_server

    running = []

    def make(agent) -> int:
        listener, service = socket.create_server(("127.0.0.1", 0)), Service(agent, "tiny", ServeConfig(sessions=4))
        server = make_server(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread, service))
        return listener.getsockname()[1]

    yield make
    for server, _, _ in running:
        server.should_exit = True
    for _, thread, service in running:
        thread.join(10)
        assert not thread.is_alive()
        service.close()


@pytest.fixture(scope="module")
def port(agent, listening) -> int:
    return listening(agent)


def test_what_is_too_large_or_no_websocket_ends_its_own_connection_alone(port):
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{port}/?task=toy/corridor", compression=None) as calm:
        calm.recv()
        with connect(f"ws://127.0.0.1:{port}/", compression="deflate") as packed:
            assert packed.protocol.extensions == []  # no bombs of zeros
            packed.recv()
            packed.socket.sendall(b"\x82\xff" + (2**31).to_bytes(8, "big") + b"\0\0\0\0")  # 2 GB announced
            with pytest.raises(ConnectionClosed) as closed:
                packed.recv(timeout=1)
            assert closed.value.rcvd.code == 1009
        for head in (b"\0\xff\xfe" * 10, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2**16, b"GET /healthz HTTP/1.1\r\n"):
            raw = socket.create_connection(("127.0.0.1", port), 1)
            raw.sendall(head)
            raw.close()
        calm.send(msgpack.packb({"cell": 0}))
        assert unpacked(calm.recv(timeout=5))["actions"].shape == (1,)


def test_openpis_own_client_acts(port):
    """Where it is installed; it asks for an older NumPy than ours, so that the test extra does not bring it."""
    openpi = pytest.importorskip("openpi_client.websocket_client_policy")
    client = openpi.WebsocketClientPolicy(f"ws://127.0.0.1:{port}/?task=toy/corridor")
    assert "toy/corridor" in client.get_server_metadata()["tasks"]
    assert client.infer({"cell": np.int64(0)})["action"] in (0, 1)
    with pytest.raises(RuntimeError, match="is missing"):
        client.infer({"cel": np.int64(0)})


@pytest.fixture
def corridor_agent(make_gato, tokenizer) -> Agent:
    task = envs.task("toy/corridor")
    return Agent(make_gato(context_length=64).float(), tokenizer, {task.name: task})


def test_a_policy_that_is_served_scores_as_the_one_that_is_loaded(corridor_agent, listening):
    """Six episodes, three of them side by side: the very same ones."""
    from gato.serve.client import RemotePolicy

    remote = RemotePolicy(f"127.0.0.1:{listening(corridor_agent)}")
    local = corridor_agent.policy("toy/corridor")
    expected, found = ([vars(r) for r in rollout(policy, "toy/corridor", 6, num_envs=3)] for policy in (local, remote))
    assert found == expected and len({row["num_timesteps"] for row in found}) > 1
    observation, _ = envs.make("toy/corridor").reset(seed=0)
    for policy in (local, remote):
        policy.reset()
    assert remote.act_one(observation) == local.act_one(observation)
    drawn = []
    for policy in (local, remote):
        policy.begin(0, 4)
        drawn.append([int(policy.act({"observation": np.array([1])}, np.zeros(1), np.array([False]))["action"][0]) for _ in range(12)])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 2, "what has been told to begin need not be told again"
    remote.close()


def test_an_answer_that_comes_too_late_is_not_taken_for_that_to_a_later_observation(listening, walk):
    """In cell 0 it goes right, in cell 1 left; the answer to cell 0 takes longer than is waited for."""
    from gato.serve.client import RemotePolicy

    agent = learned("retrieve", walk([0], [1]).task, [walk([0, 1], [1, 0])])
    with RemotePolicy(f"127.0.0.1:{listening(agent)}", timeout=0.2) as remote:
        act, answer = agent.acting.act, threading.Event()
        agent.acting.act = lambda *asked: answer.wait(10) and act(*asked)
        with pytest.raises(TimeoutError):
            remote.act({"cell": np.array([0])})
        answer.set()
        with pytest.raises(ValueError, match="an action of it failed, so that its streams are not where they were; reset it"):
            remote.act({"cell": np.array([1])})
        remote.reset()
        agent.acting.act = lambda *asked: 1 / 0
        for line in ("this is a fault of the server", "reset it"):
            with pytest.raises(ValueError, match=line):
                remote.act({"cell": np.array([1])})
        agent.acting.act = act
        remote.reset()
        assert [int(remote.act({"cell": np.array([c])})["step"][0]) for c in (1, 0)] == [0, 1]


def test_fields_may_be_called_as_what_a_message_says_beside_them(listening):
    """It goes right where the reward that it sees is 1, and left where that is 0."""
    from gato.serve.client import RemotePolicy

    seen_ = [FieldSpec(name, Modality.CONTINUOUS, "observation") for name in ("reward", "episode", "observation")]
    word = FieldSpec("task", Modality.TEXT, "observation", dtype="str")
    task = TaskSpec("toy/names", (*seen_, word, FieldSpec("step", Modality.DISCRETE, "action", (), "int64", (0,), (1,))))
    values = {spec.name: np.float32([0, 1]) for spec in seen_} | {"task": np.array(["go", "go"], object)}
    shown = Episode(task, values, {"step": np.array([0, 1])}, np.zeros(2, np.float32))
    with RemotePolicy(f"127.0.0.1:{listening(learned('retrieve', task, [shown]))}") as remote:
        assert [int(remote.act({name: v[t : t + 1] for name, v in values.items()})["step"][0]) for t in (1, 0)] == [1, 0]


def test_a_refusal_of_one_of_several_streams_stops_them_all_and_of_one_alone_none(listening, walk):
    """There is no cell 2."""
    from gato.serve.client import RemotePolicy

    agent = learned("retrieve", walk([0], [1]).task, [walk([0, 1], [1, 0])])
    with RemotePolicy(f"127.0.0.1:{listening(agent)}") as remote:
        with pytest.raises(ValueError, match=r"the server says: .*is 2, outside \[0, 1\]"):
            remote.act({"cell": np.array([2])})
        assert int(remote.act({"cell": np.array([1])})["step"][0]) == 0
        remote.reset(2)
        with pytest.raises(ValueError, match=r"is 2, outside \[0, 1\]"):
            remote.act({"cell": np.array([2, 0])})
        with pytest.raises(ValueError, match="reset it"):
            remote.act({"cell": np.array([1, 1])})
        remote.reset(2)
        assert remote.act({"cell": np.array([1, 0])})["step"].tolist() == [0, 1]


def test_an_episode_whose_first_message_was_refused_keeps_its_number(corridor_agent, listening):
    """Chance of the episode of number 3; there is no cell 9."""
    from gato.serve.client import RemotePolicy

    with RemotePolicy(f"127.0.0.1:{listening(corridor_agent)}") as remote:
        policies = remote, corridor_agent.policy("toy/corridor")
        for policy in policies:
            policy.begin(0, 3)
        with pytest.raises(ValueError, match="outside"):
            remote.act({"observation": np.array([9])})
        played = [[int(policy.act({"observation": np.array([t % 5])})["action"][0]) for t in range(12)] for policy in policies]
    assert played[0] == played[1]


def test_server_python_and_command_give_the_same_actions_captions_and_texts(make_gato, tokenizer, listening, tmp_path, capsys):
    from gato.serve.client import RemotePolicy

    tasks = {task.name: task for task in (envs.task("toy/corridor"), *WORDS)}
    Agent(make_gato(context_length=96).float(), tokenizer, tasks).save(tmp_path / "final")
    agent = Agent.load(tmp_path / "final", "cpu")
    address = f"127.0.0.1:{listening(agent)}"
    assert main(["eval", str(tmp_path / "final"), "--episodes", "4", "--ablations", "false", "--device", "cpu"]) == 0
    (row,) = json.loads((tmp_path / "final" / "eval.json").read_text())["tasks"]
    with RemotePolicy(address, "toy/corridor") as remote:
        for policy in (remote, agent.policy("toy/corridor")):
            assert [result.total_reward for result in rollout(policy, "toy/corridor", 4)] == row["returns"]
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(picture)
    capsys.readouterr()

    def command(verb: str, given: str, count: str) -> Any:
        assert main([verb, str(tmp_path / "final"), given, "--max_new_tokens", count, "--device", "cpu", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def post(path: str, body: bytes) -> dict:
        with urllib.request.urlopen(f"http://{address}{path}", body) as answer:
            return json.load(answer)

    captions = [command("caption", str(picture), "12")[0]["caption"], post("/caption?max_new_tokens=12", picture.read_bytes())["caption"]]
    assert captions == [agent.caption(picture, max_new_tokens=12)] * 2
    texts = [command("generate", "go to", "6")["text"], post("/generate", b'{"text": "go to", "max_new_tokens": 6}')["text"]]
    assert texts == [agent.generate("go to", 6)] * 2


def test_the_python_of_the_page_runs(make_gato, tokenizer, listening, capsys, tmp_path):
    gym = pytest.importorskip("gymnasium")
    task = envs.task("gymnasium/cartpole")
    agent = Agent(make_gato(context_length=64).float(), tokenizer, {task.name: task})
    port = listening(agent)
    page = (ROOT / "docs" / "serving.md").read_text()
    loop, foreign, demonstrations, chunks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(compile(loop.replace("127.0.0.1:8000", f"127.0.0.1:{port}"), "docs/serving.md", "exec"), names)
    assert float(capsys.readouterr().out) == names["total"] >= 8  # a pole falls no sooner
    if importlib.util.find_spec("openpi_client"):
        names["observation"], _ = gym.make("CartPole-v1").reset(seed=0)
        exec(compile(foreign.replace("127.0.0.1:8000", f"127.0.0.1:{port}"), "docs/serving.md", "exec"), names)
        assert names["action"] in (0, 1)
    agent.save(tmp_path / "tiny")
    with StoreWriter(tmp_path / "store", [task]) as writer:
        still = {"observation": np.zeros((2, 4), np.float32)}, {"action": np.array([1, 1])}
        writer.append(Episode(task, *still, np.ones(2, np.float32)))
    demonstrations = demonstrations.replace("runs/demo/final", str(tmp_path / "tiny"))
    demonstrations = demonstrations.replace("gymnasium/lunar-lander-continuous", str(tmp_path / "store"))
    names["gato"] = gato
    exec(compile(demonstrations, "docs/serving.md", "exec"), names)
    assert names["policy"].act_one(names["observation"]) == 1
    shown = Store(tmp_path / "store").episode(0)
    port = listening(learned("retrieve", task, [shown], chunk=8))
    exec(compile(chunks.replace("127.0.0.1:8001", f"127.0.0.1:{port}"), "docs/serving.md", "exec"), names)
    assert names["first"] == 1


@pytest.mark.slow
def test_a_terminated_server_answers_what_it_was_asked_and_leaves_with_zero(agent, tmp_path):
    pytest.importorskip("websockets", reason="sockets were not tried: pip install 'opengato[serve]'")
    from websockets.sync.client import connect

    agent.save(tmp_path / "tiny")
    command = [sys.executable, "-m", "gato.cli", "serve", str(tmp_path / "tiny"), "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        port = process.stdout.readline().split("ws://0.0.0.0:")[1].split()[0]
        token = process.stdout.readline().split()[1]
        headers = {"Authorization": f"Api-Key {token}"}
        with connect(f"ws://127.0.0.1:{port}/", compression=None, additional_headers=headers) as robot:
            robot.recv()
            robot.send(msgpack.packb({"task": "toy/corridor", "cell": 0}))  # the policy is made first, which takes a moment
            time.sleep(0.005)
            process.terminate()
            assert unpacked(robot.recv(timeout=10))["actions"].shape == (1,)
        assert process.wait(20) == 0 and "Traceback" not in process.stderr.read()


def test_bad_options_of_the_command_are_one_line(agent, tmp_path, capsys, monkeypatch):
    pytest.importorskip("websockets")
    agent.save(tmp_path / "tiny")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for options, line in (
            (["--port", str(taken.getsockname()[1])], "nothing can listen"),
            (["--port", "0", "--task", "toy/coridor"], "did you mean 'toy/corridor'"),
            (["--port", "0", "--wait_ms", "-1"], "wait_ms"),
        ):
            assert main(["serve", str(tmp_path / "tiny"), *options]) == 2
            assert line in capsys.readouterr().err
    (tmp_path / "token").write_text("short\n")
    assert main(["serve", str(tmp_path / "tiny"), "--port", "0", "--token_file", str(tmp_path / "token")]) == 2
    assert "the token has 5 characters, expected at least 8" in capsys.readouterr().err

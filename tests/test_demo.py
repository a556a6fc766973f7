"""The page of `gato demo`: what it can do, and the page itself, asked over loopback and looked at with a browser."""

import io
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gato import envs
from gato.agent import Agent, Candidate
from gato.cli import main
from gato.serve.chat import Conversation
from gato.serve.demo import Demo, draw_candidates, draw_timesteps, draw_tokens
from gato.serve.demo_page import MAX_UPLOAD, MAX_WAITING, DemoConfig, build, example_pictures, launch
from gato.words import caption_task, document_task, question_task

TASKS = (caption_task("captions", (16, 32)), question_task("vqa", (16, 32)), document_task("text"))
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def agent(make_gato, tokenizer) -> Agent:
    return Agent(make_gato(context_length=96).float(), tokenizer, {t.name: t for t in (*TASKS, envs.task("toy/corridor"))})


@pytest.fixture(scope="module")
def demo(agent) -> Demo:
    return Demo(agent)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / "a.png")
    (folder / "notes.png").write_text("no picture")
    (folder / "examples").mkdir()
    shutil.copy(folder / "a.png", folder / "examples")
    return folder


@pytest.fixture(scope="module")
def photo(photos) -> bytes:
    return (photos / "a.png").read_bytes()


# -- what it can do, without a page ------------------------------------------------------------------


def test_a_caption_comes_piece_by_piece_and_ends_as_the_agent_says_it(demo, agent, photo):
    steps = list(demo.describe(photo))
    assert steps[-1].text == agent.caption(photo, max_new_tokens=48)
    assert len({step.text for step in steps}) > 2
    assert not steps[0].candidates and 1 <= len(steps[-1].candidates) <= 4
    assert steps[-1].attention.size == (384, 192)


def test_answers_texts_and_replies_end_as_the_agent_says_them(demo, agent, photo):
    answer = list(demo.describe(photo, "what"))[-1]
    assert answer.text == agent.answer(photo, "what", max_new_tokens=48) and answer.candidates and answer.attention
    assert list(demo.write("go to"))[-1] == agent.generate("go to", max_new_tokens=48)
    told = Conversation(agent, 48).say("go to")
    assert "go to" + list(demo.reply([], "go to"))[-1] == agent.generate(told, max_new_tokens=48)


def test_asking_again_with_a_temperature_gives_something_else(demo):
    assert len({list(demo.write("go to", 1.0))[-1] for _ in range(4)}) > 1
    assert len({list(demo.write("go to", 0.0))[-1] for _ in range(2)}) == 1


def test_a_reader_who_leaves_stops_the_writing(demo, photo):
    reading = demo.write("go to")
    next(reading)
    reading.close()
    assert demo._model.acquire(timeout=10), "the writing holds the model"
    demo._model.release()


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (lambda demo: demo.describe(b""), "no readable picture"),
        (lambda demo: demo.describe(b"", "x" * 501), "the question has 501 characters, at most 500"),
        (lambda demo: demo.write("x" * 5000), "the text has 5000 characters, at most 4000"),
        (lambda demo: demo.write("a b " * 100), "the context holds 96"),
        (lambda demo: demo.write("go", float("nan")), "a temperature is from 0 to 2, found nan"),
        (lambda demo: demo.act("toy/corridor", -1), "a seed is a whole number"),
        (lambda demo: demo.act("toy/coridor", 0), "did you mean 'toy/corridor'"),
    ],
)
def test_what_is_refused_is_said_in_a_line(demo, request_, line):
    with pytest.raises(ValueError, match=line):
        list(request_(demo))


def test_an_episode_is_shown_timestep_by_timestep_with_its_tokens(demo, agent):
    assert (demo.worlds, demo.missing) == (["toy/corridor"], [])
    steps = list(demo.act("toy/corridor", 3))
    assert [step.index for step in steps] == list(range(1, len(steps) + 1)) and steps[-1].ending in ("success", "no success")
    assert [row["kind"] for row in steps[0].rows] == ["discrete", "separator", "discrete"]
    assert [bool(step.ending) for step in steps] == [False] * (len(steps) - 1) + [True]
    shown = next(draw_timesteps(iter(steps), agent.task("toy/corridor")))
    assert "(random 0.725, expert 1)" in shown and shown.count("<span") == 3 and shown.count('class="token action"') == 1


def test_what_stands_in_a_task_is_text_on_the_page_not_html(demo, tokenizer, drive):
    sequence = tokenizer.encode(drive(1, goal="<b>"))
    step = next(demo.act("toy/corridor", 0))
    step = type(step)(1, step.frame, tokenizer.table(sequence), sequence.patches, 0.0, "")
    assert "<b>" not in draw_tokens(step) and draw_tokens(step).count("<img") == 2
    assert "&lt;i&gt;" in draw_candidates((Candidate("<i>", -1.0),))


# -- the page ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def called() -> list[object]:
    """Hosts other than this computer that this process asked for; each is refused."""
    return []


@pytest.fixture(scope="module")
def address(demo, photos, called):
    pytest.importorskip("gradio", reason="the page was not tried: pip install 'opengato[page]'")
    connect = socket.socket.connect

    def only_here(self: socket.socket, to: object) -> None:
        if isinstance(to, tuple) and to[0] not in ("127.0.0.1", "::1", "localhost"):
            called.append(to)
            raise OSError("no other computer can be reached")
        connect(self, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", only_here)
        page, url = launch(demo, "tiny", DemoConfig(port=free_port(), examples=str(photos / "examples")))
        yield url
        page.close()


@pytest.fixture(scope="module")
def client(address):
    from gradio_client import Client

    return Client(address, verbose=False, max_workers=50, download_files=False)  # else a folder in /tmp stays for every picture


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def upload(photos: Path, name: str = "a.png"):
    from gradio_client import handle_file

    return handle_file(photos / name)


def test_the_page_says_what_the_agent_says_and_is_served_to_this_computer_alone(address, client, agent, photos, photo):
    assert address.split("//")[1].startswith("127.0.0.1:")
    for question in ("", None, "what"):
        text, candidates, *_ = client.predict(upload(photos), question, 0.0, api_name="/describe")
        expected = agent.answer(photo, question, max_new_tokens=48) if question else agent.caption(photo, max_new_tokens=48)
        assert text == (expected or "(it says nothing)") and "log-likelihood" in candidates
    assert client.predict("go to", 0.0, api_name="/write") == agent.generate("go to", max_new_tokens=48)
    assert "timestep" in client.predict("toy/corridor", 0, api_name="/act")


def test_the_page_shows_the_line_of_a_refusal(client, photos):
    with pytest.raises(Exception, match="the picture is no readable picture"):
        client.predict(upload(photos, "notes.png"), "", 0.0, api_name="/describe")
    with pytest.raises(Exception, match="there is no picture yet"):
        client.predict(None, "what", 0.0, api_name="/describe")
    for nothing in ("", None):  # a hidden box sends null
        with pytest.raises(Exception, match="the text is empty"):
            client.predict(nothing, 0.0, api_name="/write")


def test_a_port_that_is_taken_is_named(address, demo):
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(ValueError, match=f"cannot be served at 127.0.0.1:{port}, which may be taken; name another --port"):
        launch(demo, "tiny", DemoConfig(port=port))


def test_without_gradio_the_command_says_how_to_install_it(agent, tmp_path, monkeypatch, capsys):
    agent.save(tmp_path)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", str(tmp_path)]) == 2
    assert "pip install 'opengato[page]'" in capsys.readouterr().err
    assert main(["demo", str(tmp_path), "--port", "70000"]) == 2
    assert "'port' is 70000, expected a whole number from 0 to 65,535" in capsys.readouterr().err


def test_an_upload_that_is_too_large_is_refused(address):
    import httpx

    answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.png", io.BytesIO(b"0" * (MAX_UPLOAD + 1)))})
    assert answer.status_code == 413 and "exceeded" in answer.text


def test_of_fifty_uploads_at_once_some_are_served_and_the_others_told_that_it_is_busy(demo, client, photos):
    with demo._model:  # nothing is answered before all have asked
        jobs = [client.submit(upload(photos), "what", 0.0, api_name="/describe") for _ in range(50)]
        refused = wait_until(lambda: [job for job in jobs if job.done()], 50 - 1 - MAX_WAITING)
        assert all("full" in str(job.exception()) for job in refused)
    answered = [job.result(timeout=60) for job in jobs if job not in refused]
    assert len(answered) == 1 + MAX_WAITING and len({text for text, *_ in answered}) == 1
    assert client.predict("go to", 0.0, api_name="/write").startswith("go to")


def wait_until(found, count: int, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while len(found()) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(found()) == count
    return found()


@pytest.fixture(scope="module")
def browser():
    if not (chromium := shutil.which("chromium")):
        pytest.skip("no chromium to look at the page with")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright to drive chromium with: pip install playwright")
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", nowhere])
        yield started
        started.close()


def test_a_browser_uploads_a_picture_and_reads_its_caption(browser, address, agent, photos, photo, called):
    from playwright.sync_api import expect

    tab, asked = browser.new_page(viewport=PHONE), []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    tab.locator("input[type=file]").first.set_input_files(photos / "a.png")
    tab.get_by_role("button", name="Say what it is").click()
    said = agent.caption(photo, max_new_tokens=48) or "(it says nothing)"
    expect(tab.get_by_label("it says")).to_have_value(said, timeout=60_000)
    expect(tab.get_by_text("log-likelihood")).to_be_visible(timeout=60_000)
    tab.close()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert asked and not elsewhere, "the page loads something from elsewhere"
    assert not called, "the server calls somebody"


def test_a_browser_that_comes_when_too_many_wait_reads_that_the_page_is_busy(browser, address, demo, client, photos):
    from playwright.sync_api import expect

    tab = browser.new_page(viewport=PHONE)
    tab.goto(address)
    with demo._model:
        jobs = [client.submit("go to", 0.0, api_name="/write") for _ in range(2 + MAX_WAITING)]
        wait_until(lambda: [job for job in jobs if job.done()], 1)
        tab.get_by_role("button", name="Say what it is").click()
        expect(tab.get_by_text("currently busy")).to_be_visible(timeout=60_000)
    tab.close()


def test_a_telephone_shows_every_tab_without_sideways_scrolling(browser, address):
    tab = browser.new_page(viewport=PHONE)
    tab.goto(address)
    for name in ("Picture", "Chat", "Write", "Act"):
        tab.get_by_role("tab", name=name).click()
        assert tab.get_by_role("tabpanel").locator("visible=true").count() >= 1
        assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
    tab.close()


def test_a_browser_plays_an_episode(browser, address):
    from playwright.sync_api import expect

    tab = browser.new_page(viewport=PHONE)
    tab.goto(address)
    tab.get_by_role("tab", name="Act").click()
    tab.get_by_role("button", name="Start an episode").click()
    expect(tab.get_by_text(re.compile("timestep [0-9]+, return"))).to_be_visible(timeout=60_000)
    tab.close()


def test_the_page_says_what_the_model_is_and_cannot_do(demo, agent):
    pytest.importorskip("gradio", reason="the page was not tried: pip install 'opengato[page]'")
    texts = " ".join(str(c["props"].get("value", "")) for c in build(demo, "tiny", []).get_config_file()["components"])
    assert "captions pictures, answers questions about pictures, continues text and acts in 1 environments" in texts
    assert "What it cannot do" in texts and "often wrong" in texts
    blind = Demo(Agent(agent.model, agent.tokenizer, {"text": TASKS[2]}))
    labels = [c["props"].get("label") for c in build(blind, "tiny", []).get_config_file()["components"] if c["type"] == "tabitem"]
    assert labels == ["Chat", "Write"]


def test_pictures_to_try_come_from_a_folder_or_are_drawn(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("GATO_HOME", str(tmp_path))
    assert [picture.size for picture in example_pictures(None)] == [(128, 128)] * 3
    assert [picture.size for picture in example_pictures(str(photos / "examples"))] == [(30, 20)]
    with pytest.raises(ValueError, match="neither a store of pictures nor a folder"):
        example_pictures("nowhere")


def test_a_conversation_forgets_whole_turns_and_refuses_a_line_that_never_fits(agent):
    conversation = Conversation(agent, 86)  # ten tokens are left
    assert conversation.say("go to") == "go to"
    conversation.hear(" x")
    assert conversation.say("a") in ("a", "go to x\na")
    with pytest.raises(ValueError, match="pieces, but 10 fit"):
        conversation.say("picture " * 20)
    with pytest.raises(ValueError, match="96 tokens, so 95 new ones leave no room"):
        Conversation(agent, 95)

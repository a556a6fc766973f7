"""The web page of `gato demo` (extra `page`): `gato.serve.demo.Demo` behind gradio's components.

It is served to this computer alone unless another host is named. Nothing is sent or fetched elsewhere: no analytics, no
fonts, no scripts from other places. Requests wait in a queue of `MAX_WAITING`; beyond that the page says it is busy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gato.agent import load
from gato.description import check_gato
from gato.setting import Settings, bounded

from .demo import MAX_QUESTION, MAX_TEXT, Demo, draw_candidates, draw_timesteps

MAX_WAITING = 16
MAX_UPLOAD = 16 * 2**20  # bytes
MAX_TURNS = 20  # of a conversation that are kept
NUM_EXAMPLES = 6
KEPT_SECONDS = 3600  # how long uploads stay on the disk
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
EXTRA = "the page needs gradio: pip install 'opengato[page]'"

ABOUT = """# {name}

One model of {millions:.1f} million parameters that {does}, with one set of weights.

**What it cannot do:** it knows only what it was trained on{untrained}. Its captions and texts are often wrong, it makes up facts, and
it was not tested for bias or safety: show it, do not rely on it. Pictures and texts stay on the computer that serves this page; uploads
are deleted there after an hour.
"""

STYLE = """
.gradio-container { max-width: 60rem !important; margin: 0 auto !important; }
.acting { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.acting .frame { width: 100%; max-width: 22rem; border-radius: 4px; }
.acting > div { flex: 1 1 16rem; min-width: 0; }
.tokens { display: flex; flex-wrap: wrap; gap: 2px; }
.tokens .patch { width: 30px; height: 30px; margin: 0; border-radius: 2px; image-rendering: pixelated; }
.tokens .token { display: inline-flex; flex-direction: column; min-height: 30px; padding: 1px 5px; border-radius: 3px; white-space: pre;
  font: 12px/1.2 monospace; color: #1b1c1e; background: #e3e6ea; }
.tokens .token small { font-size: 9px; color: #555; }
.tokens .continuous { background: #d5e6f5; } .tokens .discrete { background: #e4dcf3; } .tokens .text { background: #dff0da; }
.tokens .separator { background: none; color: inherit; font-size: 20px; }
.tokens .action { background: #f9c66b; font-weight: bold; }
.candidates { width: 100%; border-collapse: collapse; } .candidates th { text-align: left; font-weight: normal; opacity: 0.7; }
.candidates td { overflow-wrap: anywhere; } .candidates td:last-child, .candidates th:last-child { text-align: right; padding-left: 1rem; }
"""


@dataclass(frozen=True)
class DemoConfig(Settings):
    """- `host`: 127.0.0.1 is this computer alone; 0.0.0.0 lets in everybody who can reach it.
    - `port`: 0 takes a free one.
    - `examples`: a store of pictures, or a folder of picture files, to try; by default held-out ones, else a few drawn shapes.
    - `device`, `verify`: as for `gato eval`.
    """

    host: str = "127.0.0.1"
    port: int = bounded(7860, 0, 65535)
    examples: str | None = None
    device: str | None = None
    verify: bool = True


def serve(checkpoint: Path, config: DemoConfig) -> None:
    """Shows the page until it is interrupted. **Raises:** `ImportError` with the pip line if gradio is missing."""
    _gradio()
    check_gato(checkpoint, "be shown on this page")
    folder = checkpoint.resolve()
    name = folder.parent.name if folder.name == "final" else folder.name
    page, url = launch(Demo(load(checkpoint, config.device, config.verify)), name, config, reached(folder))
    print(f"{name}: {url} (Ctrl-C ends it)", flush=True)
    page.block_thread()


def launch(demo: Demo, name: str, config: DemoConfig, scores: str = "") -> tuple[Any, str]:
    """Starts the page. **Returns:** gradio's page, which `close()` ends, and its address.

    **Raises:** `ValueError` if the port is taken.
    """
    gr = _gradio()
    page = build(demo, name, example_pictures(config.examples), scores)
    page.queue(max_size=MAX_WAITING)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # named ones would be fetched
    try:
        _, url, _ = page.launch(
            server_name=config.host, server_port=config.port or None, share=False, prevent_thread_lock=True, quiet=True, theme=theme,
            css=STYLE, max_file_size=MAX_UPLOAD, ssr_mode=False, enable_monitoring=False, footer_links=["api"], run_history=False,
        )  # fmt: skip
    except OSError as error:
        raise ValueError(f"the page cannot be served at {config.host}:{config.port}, which may be taken; name another --port") from error
    return page, url


def build(demo: Demo, name: str, examples: list[Any], scores: str = "") -> Any:
    """The page's tabs, one per thing that the checkpoint was trained to do."""
    gr = _gradio()
    with gr.Blocks(title=f"{name} · opengato", analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as page:
        gr.Markdown(_about(demo, name))
        if scores:
            with gr.Accordion("What it reached", open=False):
                gr.Markdown(scores)
        if demo.captions or demo.answers:
            with gr.Tab("Picture"):
                _picture_tab(demo, examples)
        if demo.writes:
            with gr.Tab("Chat"):
                _chat_tab(demo)
            with gr.Tab("Write"):
                _write_tab(demo)
        if demo.worlds:
            with gr.Tab("Act"):
                _act_tab(demo)
    return page


def reached(folder: Path) -> str:
    """The scores that `gato eval` left in a checkpoint folder, as lines of Markdown; "" where it left none."""
    from .card import score_lines

    file = folder / "eval.json"
    return "\n".join(score_lines(json.loads(file.read_text(encoding="utf-8")))) if file.is_file() else ""


def example_pictures(name: str | None) -> list[Any]:
    """Up to six PIL pictures of a store or of a folder.

    **Raises:** `ValueError` if there is neither of this name; `None` takes held-out pictures, else three drawn ones.
    """
    from PIL import Image

    from gato.data.store import Store
    from gato.data.stores import named_store
    from gato.eval.words.captioning import picture_files
    from gato.picture import read_image
    from gato.words import picture_of

    path = Path(name) if name and (Path(name) / "manifest.json").is_file() else named_store(name or "pictures/unseen_picture")
    if (path / "manifest.json").is_file():
        store = Store(path)
        chosen = np.random.default_rng(0).permutation(store.num_episodes)[:NUM_EXAMPLES]
        return [Image.fromarray(picture_of(store.episode(int(i)))) for i in chosen]
    if name is None:
        return _drawn()
    if not Path(name).is_dir():
        raise ValueError(f"'{name}' is neither a store of pictures nor a folder; name one of these for --examples")
    return [Image.fromarray(read_image(file)) for file in picture_files([name])[:NUM_EXAMPLES]]


# -- tabs ------------------------------------------------------------------------------------------


def _picture_tab(demo: Demo, examples: list[Any]) -> None:
    gr = _gradio()

    def describe(file: str | None, question: str | None, temperature: float) -> Iterator[tuple[str, str, Any, Any]]:
        with _refusals():
            for said in demo.describe(_uploaded(file), question or "", temperature or 0.0):
                text = said.text or "(it says nothing)" * bool(said.candidates)
                yield text, draw_candidates(said.candidates), said.attention, said.maps

    with gr.Row():
        with gr.Column():
            picture = gr.Image(label="picture", type="filepath", image_mode=None, sources=["upload", "webcam", "clipboard"], height=280)
            picture.preprocess = _as_sent
            optional = "question (none: it captions)" if demo.captions else "question"
            question = gr.Textbox(label=optional, max_length=MAX_QUESTION, visible=demo.answers)
            temperature = _temperature(0.0)
            button = gr.Button("Say what it is", variant="primary")
        with gr.Column():
            said = gr.Textbox(label="it says", interactive=False)
            candidates = gr.HTML(label="candidates")
            attention = gr.Image(label="where it looked: red most", interactive=False, buttons=["download", "fullscreen"])
            with gr.Accordion("each layer (row) and head (column)", open=False):
                maps = gr.Image(show_label=False, interactive=False, buttons=["download", "fullscreen"])
    gr.Examples([[p] for p in examples], [picture], label="pictures to try", cache_examples=False)
    inputs, outputs = [picture, question, temperature], [said, candidates, attention, maps]
    gr.on([button.click, question.submit], describe, inputs, outputs, api_name="describe", **_TURNS)


def _chat_tab(demo: Demo) -> None:
    gr = _gradio()

    def reply(
        line: str | None, temperature: float, turns: list[tuple[str, str]]
    ) -> Iterator[tuple[str, list[dict], list[tuple[str, str]]]]:
        with _refusals():
            for text in demo.reply(turns, said := line or "", temperature or 0.0):
                yield "", _messages([*turns, (said, text)]), turns
            yield "", _messages([*turns, (said, text)]), [*turns, (said, text)][-MAX_TURNS:]

    turns = gr.State([])
    gr.Markdown("It was trained on documents, not on conversations: it goes on from what was said, and seldom answers.")
    conversation = gr.Chatbot(label="conversation", height=360, buttons=["copy"], render_markdown=False)  # what is said loads nothing
    line = gr.Textbox(label="your line", max_length=MAX_TEXT)
    temperature = _temperature(0.7)
    with gr.Row():
        button = gr.Button("Say it", variant="primary")
        gr.Button("Start anew").click(lambda: ([], []), None, [conversation, turns], api_name=False)
    conversation.clear(lambda: [], None, turns, api_name=False)
    outputs = [line, conversation, turns]
    gr.on([button.click, line.submit], reply, [line, temperature, turns], outputs, api_name="chat", **_TURNS)


def _write_tab(demo: Demo) -> None:
    gr = _gradio()

    def write(text: str | None, temperature: float) -> Iterator[str]:
        with _refusals():
            yield from demo.write(text or "", temperature or 0.0)

    start = gr.Textbox(label="the text to continue", lines=2, max_length=MAX_TEXT)
    gr.Examples([["river:"], ["music: the"], ["A small dog"]], [start], label="beginnings to try", cache_examples=False)
    temperature = _temperature(0.7)
    button = gr.Button("Go on", variant="primary")
    text = gr.Textbox(label="text", lines=6, interactive=False)
    button.click(write, [start, temperature], text, api_name="write", **_TURNS)


def _act_tab(demo: Demo) -> None:
    gr = _gradio()

    def act(name: str | None, seed: float | None) -> Iterator[str]:
        with _refusals():
            yield from draw_timesteps(demo.act(name or "", int(seed or 0)), demo.agent.task(name or ""))

    gr.Markdown(
        "The environment, and beside it the tokens of one timestep as the model reads them, with their ids: patches of its picture, "
        "<span style='background:#dff0da;color:#000'>text</span>, <span style='background:#d5e6f5;color:#000'>continuous</span> and "
        "<span style='background:#e4dcf3;color:#000'>discrete</span> values, and after the bar "
        "<span style='background:#f9c66b;color:#000'>the action it chose</span>."
    )
    if demo.missing:
        gr.Markdown(f"Trained, but the simulator is not installed here: {', '.join(demo.missing)}.")
    with gr.Row():
        task = gr.Dropdown(demo.worlds, value=demo.worlds[0], label="environment", min_width=220)
        seed = gr.Number(0, precision=0, minimum=0, label="seed of the episode")
    with gr.Row():
        start, stop = gr.Button("Start an episode", variant="primary"), gr.Button("Stop")
    shown = gr.HTML()
    # an episode goes on for half a minute: two may run beside the requests of the other tabs
    playing = start.click(act, [task, seed], shown, api_name="act", concurrency_limit=2, concurrency_id="act", show_progress="hidden")
    stop.click(None, cancels=[playing])


# -- parts -----------------------------------------------------------------------------------------

_TURNS: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}  # one request at a time; the others wait


def _gradio() -> Any:
    os.environ.update(QUIET)
    try:
        import gradio
    except ImportError:
        raise ImportError(EXTRA) from None
    return gradio


def _as_sent(file: Any) -> str | None:
    """In place of gradio's own reading of a picture: `read_image` alone decodes it, with its limits."""
    return None if file is None else file.path


def _temperature(value: float) -> Any:
    return _gradio().Slider(0, 1.5, value, step=0.1, label="temperature (0: the likeliest piece each time)")


def _uploaded(file: str | None) -> bytes:
    if file is None:
        raise ValueError("there is no picture yet; upload one, or choose one below")
    if Path(file).stat().st_size > MAX_UPLOAD:
        raise ValueError(f"the picture has more than {MAX_UPLOAD} bytes; scale it down")
    return Path(file).read_bytes()


def _messages(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    pairs = [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
    return [message for message in pairs if message["content"]]


@contextmanager
def _refusals() -> Iterator[None]:
    """What is refused is shown on the page, in its own words."""
    try:
        yield
    except ValueError as error:
        raise _gradio().Error(str(error), print_exception=False) from None


def _about(demo: Demo, name: str) -> str:
    abilities = {
        "captions pictures": demo.captions, "answers questions about pictures": demo.answers, "continues text": demo.writes,
        f"acts in {len(demo.worlds)} environments": bool(demo.worlds),
    }  # fmt: skip
    does = [what for what, it_can in abilities.items() if it_can] or ["does nothing that this page shows"]
    cannot = ["captions" * (not demo.captions), "questions about pictures" * (not demo.answers), "text" * (not demo.writes)]
    untrained = [what for what in cannot if what]
    return ABOUT.format(
        name=name, millions=sum(p.numel() for p in demo.agent.model.parameters()) / 1e6, does=_list(does),
        untrained=f" (not {_list(untrained, 'or')})" if untrained else "",
    )  # fmt: skip


def _list(words: list[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def _drawn() -> list[Any]:
    """Three shapes, where there are no other pictures."""
    from PIL import Image, ImageDraw

    pictures = []
    for shape, colour in (("ellipse", "red"), ("rectangle", "blue"), ("polygon", "green")):
        picture = Image.new("RGB", (128, 128), "white")
        place: Any = [(64, 24), (104, 104), (24, 104)] if shape == "polygon" else [24, 24, 104, 104]
        getattr(ImageDraw.Draw(picture), shape)(place, fill=colour)
        pictures.append(picture)
    return pictures

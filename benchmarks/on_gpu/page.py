"""The figures as a page of tables, and as lines while they come."""

from __future__ import annotations

from typing import Any

Figure = dict[str, Any]

FORMULA = """\
Times are of updates of four micro-batches, medians of three rounds of two, on the wall. **MFU** =
operations of forward and backward / seconds / the device's published bf16 peak. Operations are 6 x (tokens x
(layers x (before + behind) - behind) + targets x (behind + width x vocabulary)), where `before` =
3 x width x inner + context x inner (q, k, v, and the half of attention that a causal mask leaves),
`behind` = width x inner + 1.5 x width x feed-forward, and inner = heads x head width; patches,
relative scores and what is computed again are not counted. *Of the products* and *of Llama* and
*of GPT-2* are the same run's: the same operations over the measured matmul ceiling, and tokens/s
over those of transformers' models of the same layers, width, heads and vocabulary, whose layers
are compiled, too.
*Gaps* is the share of a step in which no kernel ran."""
SECTIONS = {
    "correctness": "Each path against the CPU in float64: relative error, the CPU's own error in "
    "the same precision, and the limit, four times that.",
    "engines": "Losses through ZeRO on one rank, and of runs that go on, against the plain ones.",
    "tests": "The tests marked `gpu`.",
    "ceilings": "Measured: operations and bytes a second.",
    "training": FORMULA,
    "data": "`gato pretrain` over a store: the share of the time that it waited for data.",
    "layouts": "The same episodes in both token layouts.",
    "acting": "Ten action tokens behind 18 observed ones, context full, window rolling, bf16.",
    "captions": "Captions a second beside transformers' GPT-2 of equal size.",
    "largest": "What ZeRO-3 with everything offloaded trains, one row at a time.",
}
SHARES = {"mfu", "gaps", "waited", "same_ids", "of the products"}
SECONDS = {"p50", "p99", "seconds"}
ROUGH = {"error", "cpu", "limit", "fell", "last"}
BYTES = {"memory", "memory_bytes"}
SHOWN = 10  # entries of a list
APART = {"kernels", "parts"}  # which are lists under the table


def shown(name: str, value: Any) -> str:
    """One figure, with its unit."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "**NO**"
    if isinstance(value, dict):
        return ", ".join(f"{key[:60]} {share:.0%}" for key, share in list(value.items())[:SHOWN])
    if isinstance(value, str):
        return value.replace("|", "/").replace("\n", " ")
    if name in SHARES:
        return f"{value:.1%}"
    if name in SECONDS:
        return f"{1e3 * value:,.2f} ms"
    if name in ROUGH:
        return f"{value:.1e}"
    if name in BYTES:
        return f"{value / 1e9:,.2f} GB"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if value < 1e4 else f"{value:,.0f}" if value < 1e9 else f"{value:.3g}"


def line(figure: Figure) -> str:
    rest = {k: v for k, v in figure.items() if k not in ("part", "section", "what", *APART)}
    return f"{figure['what']}: " + ", ".join(f"{k} {shown(k, v)}" for k, v in rest.items())


def page(about: Figure, figures: list[Figure]) -> str:
    """**Arguments:** `about`: device, commit, command and what else the head says."""
    head = "".join(f"- {name}: {value}\n" for name, value in about.items())
    checks = [figure["holds"] for figure in figures if "holds" in figure]
    text = f"# On a GPU\n\n{head}\n{sum(checks)} of {len(checks)} checks hold.\n"
    failed = [figure for figure in figures if "failed" in figure]
    if failed:
        text += "\nWhat failed:\n\n"
        text += "".join(f"- {f['what']}: {shown('failed', f['failed'])}\n" for f in failed)
    for section, said in SECTIONS.items():
        rows = [f for f in figures if f["section"] == section and "failed" not in f and "what" in f]
        if rows:
            rows = with_ratios(rows, figures) if section == "training" else rows
            text += f"\n## {section.capitalize()}\n\n{said}\n\n{table(rows)}{lists(rows)}"
    took = [f"{f['part']} {f['took']:.0f} s" for f in figures if "took" in f]
    return text + f"\nWhat each part took: {', '.join(took)}.\n"


def table(rows: list[Figure]) -> str:
    left_out = {"part", "section", *APART}
    names = list(dict.fromkeys(key for row in rows for key in row if key not in left_out))
    text = f"| {' | '.join(names)} |\n|{' --- |' * len(names)}\n"
    for row in rows:
        text += f"| {' | '.join(shown(name, row.get(name)) for name in names)} |\n"
    return text


def lists(rows: list[Figure]) -> str:
    text = ""
    for row in rows:
        for name in sorted(APART & row.keys(), reverse=True):
            text += f"\n- {row['what']}, {name}: {shown(name, row[name])}"
    return text + "\n" if text else ""


def with_ratios(rows: list[Figure], figures: list[Figure]) -> list[Figure]:
    """Lines of training with what they are of the measured products and of their peers."""
    ceiling = next((f["matmul"] for f in figures if "matmul" in f), None)
    speed = {(_body(row), row["mode"]): row["tokens_per_second"] for row in rows}
    found = []
    for row in rows:
        more: Figure = {}
        if row["mode"] not in ("gpt2", "llama"):
            more["of the products"] = ceiling and row["flops"] / ceiling
            for peer, name in (("gpt2", "of GPT-2"), ("llama", "of Llama")):
                theirs = speed.get((_body(row), peer))
                more[name] = theirs and row["tokens_per_second"] / theirs
        found.append({k: v for k, v in row.items() if k not in ("size", "mode", "flops")} | more)
    return found


def _body(row: Figure) -> str:
    """The size without its positions, which the peers have of their own."""
    return str(row["size"]).removesuffix("-xl").removesuffix("-rope")

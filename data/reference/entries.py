"""Entries of dictionaries made into prose: whole paragraphs, without the marks that only the dictionary's editors need.

The Collaborative International Dictionary (GCIDE), FOLDOC and the Jargon File come as lines of some sixty characters
with cross references in braces; each adds marks of its own.
"""

from __future__ import annotations

import re
import unicodedata

# GCIDE writes letters beyond ASCII as [mark, letter], and says in square brackets who added what
_MARKS = {
    "'": "\u0301",
    "`": "\u0300",
    "^": "\u0302",
    '"': "\u0308",
    "~": "\u0303",
    "=": "\u0304",
    ",": "\u0327",
    "u^": "\u0306",
    ".": "\u0307",
    "-": "",
}
_LIGATURES = {
    "ae": "æ",
    "AE": "Æ",
    "oe": "œ",
    "OE": "Œ",
    "eth": "ð",
    "thorn": "þ",
    "deg": "°",
    "imac": "ī",
    "aum": "ä",
    "asl": "a",
    "add": "a",
}
_ADDED = r"\[(?:1913 Webster|Webster 1913|WordNet|PJC|RDH|RHUD|Century Dict)[^\]]*\]"
_ITEM = re.compile(r"\d+\. |\([a-z]\) |Note: |Syn: ")


def prose(entry: str, deepest: int = 99) -> str:
    """An entry with a line for each of its paragraphs and numbered meanings, without marks around cross references.

    **Arguments:** `deepest`: indentation of text; what stands further in (tables, code) keeps its lines.
    """
    lines: list[str] = []
    joins = False  # whether the next line may go on with this one
    for line in entry.splitlines():
        indent = len(line) - len(line.lstrip())
        text = " ".join(line.split()) if indent <= deepest else line.rstrip()
        if text and joins and 0 < indent <= deepest and not _ITEM.match(text):
            lines[-1] += f" {text}"
        else:
            lines.append(text)
        joins = bool(text) and indent <= deepest
    unmarked = (re.sub(r"\{ ?([^{}]*?) ?\}", r"\1", line) if not line.startswith(" ") else line for line in lines)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(unmarked)).strip()


def hacker_prose(entry: str, deepest: int) -> str:
    """An entry of FOLDOC or the Jargon File, without e-mail addresses and the day of its last change."""
    text = re.sub(r" ?<?[\w.+-]+@[\w-]+(?:\.[\w-]+)+>?", "", prose(entry, deepest))
    return re.sub(r"\n\n\(\d{4}-\d\d-\d\d\)$", "", text)


def gcide_prose(entry: str) -> str:
    """An entry of GCIDE without pronunciation, the marks of who added what, and etymologies with letters that are lost."""
    entry = re.sub(r" \\[^\\\n]{1,80}\\(\w)?", lambda m: f" {m[1]}" if m[1] else "", entry)
    entry = re.sub(r"^([^()\n]{1,60}) \([^()]*[\[\"*?`][^()]*\)(?=,|$)", r"\1", entry, count=1)
    entry = re.sub(rf"^[ ]*{_ADDED}.*$", "", entry, flags=re.MULTILINE)  # what follows on the line is another entry's headword
    entry = re.sub(rf"[ ]?{_ADDED}|\[root\]\d*\.?", "", entry)
    entry = re.sub(r" \[[^\[\]]*\?[^\[\]]*\]", "", entry)
    entry = re.sub(r"\[([a-zA-Z]{2,5}|[^\w\s][a-zA-Z]|[a-zA-Z]\^)\]", _letter, entry)
    return prose(re.sub(r"(?<=\w)[*`\"](?=\w)", "", entry))  # accents and breaks between syllables


def _letter(match: re.Match[str]) -> str:
    """`['e]` -> é, `[ae]` -> æ; what is no letter stays."""
    code = match[1]
    if code in _LIGATURES:
        return _LIGATURES[code]
    mark, letter = ("u^", code[0]) if code.endswith("^") else (code[0], code[1:])
    return unicodedata.normalize("NFC", letter + _MARKS[mark]) if mark in _MARKS else match[0]

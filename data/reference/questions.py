"""Questions about captioned pictures, made by templates out of what is known of each: its concept.

Nobody asked them: every one says so in its `question_id`. What is asked and what is answered follow from hashes of
names, so they are the same at every build. Half of the answers to "is this a ...?" are yes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from gato.data.store import Store

from .concepts import VAGUE, head, share
from .wordnet import DRAWABLE, WordNet

_MEDIA = {"photo", "picture", "drawing", "cartoon"}  # what any of the pictures may be called
_COPIED = ("concept", "source", "licence", "author", "original")


def template_questions(stores: Mapping[str, Store], net: WordNet) -> Iterator[dict[str, Any]]:
    """Two questions a picture, as rows for `VqaReader`: what it is, and whether it is a thing that it may be or not.

    **Arguments:** `stores`: of captioned pictures, by split. Wrong things to ask for are concepts of `train`, so that no
    question names a concept that is held out. Pictures whose concept is vague, or no thing, are passed over.
    """
    concepts = sorted({concept for i in _episodes(stores["train"]) if _is_thing(concept := _concept(stores["train"], i), net)})
    for split, store in stores.items():
        for i in _episodes(store):
            concept = _concept(store, i)
            if not _is_thing(concept, net):
                continue
            episode = store.episode(i)
            known = {key: episode.parameters[key] for key in _COPIED if key in episode.parameters}
            name = f"{known['source']}/{known['original']}"
            buffer = io.BytesIO()
            Image.fromarray(episode.observations["image"][0]).save(buffer, "PNG")
            is_asked = share(f"question:{name}") < 0.5
            asked = concept if is_asked else _other(concept, str(episode.actions["caption"][0]), concepts, name, net)
            for kind, question, answer in (
                ("what", "what is this?", concept),
                ("is-it", f"is this {_article(asked)} {asked}?", "yes" if is_asked else "no"),
            ):
                row = {"image": buffer.getvalue(), "question": question, "answer": answer, "split": split}
                yield row | known | {"question_id": f"template/{kind}/{name}"}


def _episodes(store: Store) -> range:
    return range(store.num_episodes)


def _concept(store: Store, i: int) -> str:
    return str(store.episode(i, 0, 1).parameters.get("concept", ""))


def _is_thing(concept: str, net: WordNet) -> bool:
    return net.lexfile(concept) in DRAWABLE and not {concept, head(concept)} & (VAGUE | _MEDIA)


def _other(concept: str, caption: str, concepts: Sequence[str], name: str, net: WordNet) -> str:
    """A concept that the picture does not show: neither of its kind nor above it, and without a word of its caption."""
    first = int(share(f"other:{name}") * len(concepts))
    said = {*concept.split(), *caption.lower().split()}
    mine = net.first(concept)
    for other in [*concepts[first:], *concepts[:first]]:
        theirs = net.first(other)
        if mine not in {theirs, *net.ancestors(theirs)} and theirs not in net.ancestors(mine) and not said & set(other.split()):
            return other
    raise ValueError(f"no picture shows anything but '{concept}'; questions need several concepts")


def _article(concept: str) -> str:
    return "an" if concept[0] in "aeiou" else "a"

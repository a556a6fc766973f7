"""What we rely on in other libraries beyond their promises, in one place: names that they rename, and their insides.

`tests/test_libraries.py` looks each of them up in what is installed, and finds in our code every private name of others
that is not listed here.
"""

from __future__ import annotations

from functools import cache


@cache
def cache_name() -> str:
    """The name under which transformers hands a cache to a model and takes it back: `cache` from 5.24 on, before that
    `past_key_values`."""
    from inspect import signature

    from transformers import GenerationMixin

    return "cache" if "cache" in signature(GenerationMixin.prepare_inputs_for_generation).parameters else "past_key_values"

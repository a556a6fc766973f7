"""The mutations that the readers are tried with are the same each time, differ from what they were made of, and catch what they should."""

import json

import numpy as np
import pytest

from tests.mutations import fuzz, mutated_array, mutated_bytes, mutated_names, mutated_text, mutated_value

VALUE = {"a": [1, {"b": None}], "c": "x"}


def drawn(mutate, value, count=200):
    return [mutate(np.random.default_rng(seed), value) for seed in range(count)]


def test_the_same_seed_gives_the_same_mutation():
    for mutate, value in ((mutated_bytes, b"0123456789"), (mutated_value, VALUE), (mutated_names, VALUE), (mutated_text, "a,b\n1,2\n")):
        assert repr(drawn(mutate, value)) == repr(drawn(mutate, value))


def test_the_given_value_stays_as_it_is_and_most_mutations_differ_from_it():
    before = json.dumps(VALUE)
    array = np.arange(6.0).reshape(3, 2)
    assert sum(json.dumps(v) != before for v in drawn(mutated_value, VALUE)) > 190 and json.dumps(VALUE) == before
    assert sum(b != b"0123456789" for b in drawn(mutated_bytes, b"0123456789")) > 190
    changed = [a for a in drawn(mutated_array, array) if a.shape != (3, 2) or a.dtype != float or not np.array_equal(a, array)]
    assert len(changed) > 120 and array.tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    "error", [TypeError("x"), ValueError(""), ValueError("'NoneType' object is not iterable"), ValueError("x" * 2_000)]
)
def test_what_is_no_refusal_in_words_fails(error):
    def read(_):
        raise error

    with pytest.raises(pytest.fail.Exception, match="seed 0"):
        fuzz(range(1), lambda rng: None, read)


def test_results_and_refusals_are_counted():
    def read(number):
        if number < 0.5:
            raise ValueError("a.csv, row 3: too small; give more")

    counts = fuzz(range(100), lambda rng: rng.random(), read)
    assert sum(counts.values()) == 100 and min(counts.values()) > 20

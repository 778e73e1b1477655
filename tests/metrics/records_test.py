"""Reading of JSON files in several encodings and with missing values."""

import json
import math

import numpy as np
import pytest

from keras_hybrid.metrics import records

_TEXT = json.dumps({"name": "Straße"}, ensure_ascii=False)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_json_is_read_in_every_unicode_encoding(tmp_path, encoding):
    """Windows editors and PowerShell write a byte order mark."""
    file = tmp_path / "a.json"
    file.write_bytes(_TEXT.encode(encoding))
    assert records.content_of(file) == records.content_of(str(file)) == {"name": "Straße"}


@pytest.mark.parametrize(
    "content",
    [b"", b"\xef\xbb\xbf", _TEXT.encode("latin-1"), b"[" * 100_000, b"\0\x05\x16"],
)
def test_invalid_json_is_reported_in_one_line(tmp_path, content):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"^.*a\.json is not a JSON file: .*$"):
        records.content_of(file)


def test_missing_lists_are_reported():
    assert records.lists_of({"a": [1], "b": []}, "x.json", "a", "b") == [[1], []]
    with pytest.raises(
        ValueError, match='x.json must be .* as "a" and "b". Received: list'
    ):
        records.lists_of([], "x.json", "a", "b")
    with pytest.raises(ValueError, match=r"Received: dict with 'a', 'b'$"):
        records.lists_of({"a": [], "b": None}, "x.json", "a", "b")


def test_identity_accepts_numbers_and_strings():
    assert [records.identity({"id": x}, "id") for x in (7, 7.0, "7", -1)] == [
        7,
        7,
        "7",
        -1,
    ]
    assert type(records.identity({"id": 7.0}, "id")) is int
    for value in (None, math.nan, math.inf, 1.5, "", [7]):
        with pytest.raises(records.MalformedError, match='"id"'):
            records.identity({"id": value}, "id")
    empty = [
        records.is_empty({"id": x}, "id") for x in (None, math.nan, 1.5, 1.0, 0, "", [])
    ]
    assert empty == [True, True, True, False, False, False, False]
    assert not records.is_empty({}, "id")  # a missing key is not an empty value


def test_box_accepts_four_finite_numbers():
    assert records.box_or_none({"bbox": [1, 2, 0, 4.5]}) == (1, 2, 0, 4.5)
    assert records.box_or_none({"bbox": np.array([1, 2, 3, 4])}) == (1, 2, 3, 4)
    for value in (
        *(None, [], [1, 2, -3, 4], [1, 2, 3, -4], [None] * 4),
        *([1, 2, math.nan, 4], [math.inf, 2, 3, 4]),
    ):
        assert records.box_or_none({"bbox": value}) is None
        with pytest.raises(records.MalformedError, match='"bbox"'):
            records.box({"bbox": value})
    for record in ({}, {"bbox": [1, 2, 3]}, {"bbox": 5}, {"bbox": ["1", "2", "3", "4"]}):
        with pytest.raises(records.MalformedError, match='"bbox"'):
            records.box_or_none(record)


def test_a_null_number_counts_as_missing():
    assert records.number({"ignore": None}, "ignore", 0) == 0
    with pytest.raises(records.MalformedError, match='"score"'):
        records.number({"score": None}, "score")

"""The category of people in a COCO-style JSON file, found by its name."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_hybrid.metrics import records

_NAMES = "person", "persons", "people", "pedestrian", "pedestrians"
_LISTED = 20


def is_person(category: Any) -> bool:
    """Whether a record of `"categories"` is named person or pedestrian."""
    return _name(category) in _NAMES


def id_of_people(
    source: Any,
    categories: Sequence[Any] | None,
    annotations: Sequence[Any],
    wanted: str | None = None,
) -> int | str:
    """Returns the id of the category of people.

    If several categories have such a name, the only one that annotations use is taken:
    some exporters list headings as categories too.

    Args:
        source: Path of the file, for messages.
        categories: The file's `"categories"`. If there are none, people are category 1.
        annotations: The file's `"annotations"`.
        wanted: Name or id of the category to take instead.

    Raises:
        ValueError: No category matches, or several do; the message lists them.
    """
    used = {str(_given_id(one)): _given_id(one) for one in annotations}
    if not categories:
        return used.get(wanted or "1", wanted or 1)
    known = {}
    for index, record in enumerate(categories):
        with records.naming(source, f"categories[{index}]", record):
            known[records.identity(record, "id")] = record
    names = _NAMES if wanted is None else (wanted.strip().casefold(),)
    found = [one for one, record in known.items() if _name(record) in names]
    found = found or [one for one in known if str(one) == wanted]
    found = [one for one in found if str(one) in used] or found
    if len(found) != 1:
        listed = [f"{one} {record.get('name')}" for one, record in known.items()]
        raise ValueError(
            f"{source} must have one category named {wanted or 'person or pedestrian'}. "
            f"Received: {', '.join(listed[:_LISTED])}. Give the name or id of the "
            "category to find as `category` (--category=NAME)"
        )
    return found[0]


def id_in(
    record: Mapping[str, Any], categories: Sequence[Any] | None, default: int | str
) -> int | str:
    """Returns the `"category_id"` of an annotation.

    Args:
        record: The annotation.
        categories: The `"categories"` of its file.
        default: Id of an annotation without one, if the file has at most one category.

    Raises:
        MalformedError: The id is invalid, or missing although there are several
            categories.
    """
    if "category_id" not in record and len(categories or ()) < 2:
        return default
    return records.identity(record, "category_id")


def _given_id(annotation):
    value = annotation.get("category_id") if isinstance(annotation, dict) else None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name(category):
    name = category.get("name") if isinstance(category, dict) else None
    return str(name).strip().casefold()

"""Which of the categories of a JSON file as COCO's is people: that of their name."""

from keras_hybrid.metrics import records

_NAMES = "person", "persons", "people", "pedestrian", "pedestrians"
_LISTED = 20


def is_person(category):
    """Whether a record of `"categories"` is named person or pedestrian."""
    return _name(category) in _NAMES


def id_of_people(source, categories, annotations, wanted=None):
    """The id of the category that is people.

    Where several are, the one that annotations have is taken: exporters list headings.

    Args:
        source: Path of the file, for messages.
        categories: Its `"categories"`. Without any, people are category 1.
        annotations: Its `"annotations"`.
        wanted: Name or id of a category to take instead.

    Raises:
        ValueError: None or several are people; the message lists them.
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
            f"Received: {', '.join(listed[:_LISTED])}. Give the name or id of the one to "
            "find as `category` (--category=NAME)"
        )
    return found[0]


def id_in(record, categories, default):
    """The `"category_id"` of an annotation.

    Args:
        record: Annotation.
        categories: `"categories"` of its file.
        default: Id where it has none, though there are no several categories.

    Raises:
        MalformedError: It has none.
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

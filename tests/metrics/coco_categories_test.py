"""The category of people in a COCO file."""

import pytest

from keras_hybrid.metrics.coco_categories import id_of_people


def categories(*names, start=1):
    return [{"id": i, "name": name} for i, name in enumerate(names, start)]


def annotations_of(*ids):
    return [{"category_id": i} for i in ids]


@pytest.mark.parametrize(
    ("listed", "annotations", "expected"),
    [
        (categories("bicycle", "person"), annotations_of(1, 2), 2),
        (categories("person", start=0), annotations_of(0), 0),
        (categories("person", "car", start=0), annotations_of(0, 1), 0),
        ([{"id": "1", "name": "person"}], annotations_of("1"), "1"),
        ([{"id": 3.0, "name": " Person "}], annotations_of(3.0), 3),
        (categories("car", "Pedestrians"), [], 2),
        (
            categories("rider", "pedestrian", "person (other)", "person group"),
            annotations_of(1),
            2,
        ),
        # An annotation tool may list the name of the project before its categories.
        (
            categories("pedestrians", "pedestrian", "car", start=0),
            annotations_of(1, 2),
            1,
        ),
        (None, annotations_of(1, 2), 1),
        ([], annotations_of("1"), "1"),
        ([], [], 1),
    ],
)
def test_people_are_found_by_category_name(listed, annotations, expected):
    found = id_of_people("a.json", listed, annotations)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("requested", "expected"),
    [("walker", 5), ("Walker ", 5), ("6", 5), ("7", 7), ("12", 12)],
)
def test_requested_category_by_name_or_id(requested, expected):
    """A name takes precedence over an id."""
    listed = [
        {"id": 5, "name": "walker" if requested != "6" else "6"},
        {"id": 6, "name": "person"},
        {"id": 7, "name": None},
        {"id": 12},
    ]
    assert id_of_people("a.json", listed, annotations_of(5, 6), requested) == expected


def test_requested_category_without_listed_categories():
    assert id_of_people("a.json", None, annotations_of(0, 1), "0") == 0
    assert id_of_people("a.json", None, annotations_of(1), "9") == "9"


@pytest.mark.parametrize(
    ("listed", "requested", "message"),
    [
        (
            categories("car", "bike"),
            None,
            "named person or pedestrian. Received: 1 car, 2",
        ),
        (
            categories("person", "pedestrian"),
            None,
            "Received: 1 person, 2 pedestrian. Give",
        ),
        (categories("person", "person"), None, "Received: 1 person, 2 person"),
        (
            categories("person"),
            "walker",
            "named walker. Received: 1 person. .*--category=",
        ),
        (categories(*map(str, range(50))), None, "20 19. Give"),
        (["person"], None, r"categories\[0\] must be a dictionary"),
        ([{"name": "person"}], None, r'categories\[0\] must have .* "id"'),
    ],
)
def test_ambiguous_or_malformed_categories_are_rejected(listed, requested, message):
    with pytest.raises(ValueError, match=rf"^a\.json.*{message}"):
        id_of_people("a.json", listed, annotations_of(1, 2), requested)

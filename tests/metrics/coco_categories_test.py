"""People are found by the name of their category."""

import pytest

from keras_hybrid.metrics.coco_categories import id_of_people


def categories(*names, start=1):
    return [{"id": i, "name": name} for i, name in enumerate(names, start)]


def of(*ids):
    return [{"category_id": i} for i in ids]


@pytest.mark.parametrize(
    ("listed", "annotations", "expected"),
    [
        (categories("bicycle", "person"), of(1, 2), 2),
        (categories("person", start=0), of(0), 0),
        (categories("person", "car", start=0), of(0, 1), 0),
        ([{"id": "1", "name": "person"}], of("1"), "1"),
        ([{"id": 3.0, "name": " Person "}], of(3.0), 3),
        (categories("car", "Pedestrians"), [], 2),
        (categories("rider", "pedestrian", "person (other)", "person group"), of(1), 2),
        # As a tool lists the name of a project before its categories.
        (categories("pedestrians", "pedestrian", "car", start=0), of(1, 2), 1),
        (None, of(1, 2), 1),
        ([], of("1"), "1"),
        ([], [], 1),
    ],
)
def test_category_of_people(listed, annotations, expected):
    found = id_of_people("a.json", listed, annotations)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("walker", 5), ("Walker ", 5), ("6", 5), ("7", 7), ("12", 12)],
)
def test_category_that_is_asked_for(wanted, expected):
    """By name, then by id."""
    listed = [
        {"id": 5, "name": "walker" if wanted != "6" else "6"},
        {"id": 6, "name": "person"},
        {"id": 7, "name": None},
        {"id": 12},
    ]
    assert id_of_people("a.json", listed, of(5, 6), wanted) == expected


def test_category_that_is_asked_for_where_none_is_listed():
    assert id_of_people("a.json", None, of(0, 1), "0") == 0
    assert id_of_people("a.json", None, of(1), "9") == "9"


@pytest.mark.parametrize(
    ("listed", "wanted", "message"),
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
def test_what_is_unclear_is_refused(listed, wanted, message):
    with pytest.raises(ValueError, match=rf"^a\.json.*{message}"):
        id_of_people("a.json", listed, of(1, 2), wanted)

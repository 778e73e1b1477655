"""The miss rate compared with hand-computed examples and with loops."""

import json
import logging
import math

import numpy as np
import pytest

from keras_hybrid.metrics import Subset, log_average_miss_rate, miss_rate_curve

_FPPI = [0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000]
_RANGES = {
    "reasonable": (50, 1e10, 0.65, 1e10),
    "reasonable_small": (50, 75, 0.65, 1e10),
    "heavy": (50, 1e10, 0.2, 0.65),
    "all": (20, 1e10, 0.2, 1e10),
}


def truth(*annotations, images=100):
    """With 100 images, the first false positive is at the lowest rate, 0.01 per image."""
    return {
        "images": [{"id": i} for i in range(images)],
        "annotations": [
            {"image_id": 0, "category_id": 1, **annotation} for annotation in annotations
        ],
    }


def person(x=0.0, height=100, **record):
    return {"bbox": [x, 0, 41, height], **record}


def found(x=0.0, score=0.9, height=100, image=0):
    box = [x, 0, 41, height]
    return {"image_id": image, "category_id": 1, "bbox": box, "score": score}


def test_one_of_two_people_found_gives_a_miss_rate_of_one_half():
    assert log_average_miss_rate(truth(person(0), person(500)), [found(0)]) == (
        pytest.approx(50)
    )


def test_miss_rate_is_the_geometric_mean_over_reference_rates():
    # One person is found, then three false positives in 100 images, then the other.
    detections = [found(0, 0.9)]
    detections += [found(900, 0.8, image=i) for i in (1, 2, 3)]
    detections += [found(500, 0.7)]
    # Both are found at 0.03 false positives per image: recall is 1 at the third rate.
    assert log_average_miss_rate(truth(person(0), person(500)), detections) == 0
    # With three people, the miss rate is 2/3 at two rates and 1/3 at seven.
    rate = log_average_miss_rate(truth(person(0), person(500), person(1000)), detections)
    assert rate == pytest.approx(100 * (2 / 3) ** (2 / 9) * (1 / 3) ** (7 / 9))


def test_reference_rates_below_the_first_false_positive_use_the_final_recall():
    """As with index -1 in the official evaluator. It takes fewer than 100 images."""
    detections = [found(900, 0.9), found(0, 0.8), found(900, 0.7), found(500, 0.6)]
    three = [person(0), person(500), person(1000)]
    curve = miss_rate_curve(truth(*three, images=10), detections)
    np.testing.assert_allclose(curve.scores, [0.9, 0.8, 0.7, 0.6])
    np.testing.assert_allclose(curve.fppi, [0.1, 0.1, 0.2, 0.2])
    np.testing.assert_allclose(curve.miss_rate, [1, 2 / 3, 2 / 3, 1 / 3])
    assert curve.positives == 3
    # Four rates are below 0.1; 0.1 and 0.1778 are before the second false positive.
    rate = log_average_miss_rate(truth(*three, images=10), detections)
    assert rate == pytest.approx(100 * (1 / 3) ** (7 / 9) * (2 / 3) ** (2 / 9))


def test_miss_rate_without_detections_or_people():
    assert log_average_miss_rate(truth(person()), []) == 100
    assert math.isnan(log_average_miss_rate(truth(), [found()]))
    assert math.isnan(log_average_miss_rate(truth(person(ignore=1)), [found()]))
    assert math.isnan(log_average_miss_rate({"images": [], "annotations": []}, []))


def test_ignored_people_absorb_any_number_of_detections():
    both = truth(person(0), person(500, ignore=1))
    detections = [found(500, 0.9), found(510, 0.8), found(490, 0.7), found(0, 0.6)]
    curve = miss_rate_curve(both, detections)
    assert curve.scores.tolist() == [0.6]
    assert curve.positives == 1


def test_overlap_with_ignored_regions_is_relative_to_the_detection():
    # A group that is 400 pixels wide. The IoU with the detection would be 0.1.
    group = truth({"bbox": [0, 0, 400, 100], "ignore": 1}, person(900))
    assert len(miss_rate_curve(group, [found(200)]).scores) == 0
    # Half of the detection inside the region is enough, less is not.
    half = {"image_id": 0, "bbox": [380, 0, 40, 100], "score": 0.5}
    assert len(miss_rate_curve(group, [half]).scores) == 0
    assert len(miss_rate_curve(group, [{**half, "bbox": [381, 0, 40, 100]}]).scores) == 1


def test_each_person_is_matched_once_by_the_highest_score():
    curve = miss_rate_curve(truth(person(0)), [found(5, 0.6), found(0, 0.5)])
    assert curve.scores.tolist() == [0.6, 0.5]
    np.testing.assert_allclose(curve.miss_rate, [0, 0])
    np.testing.assert_allclose(curve.fppi, [0, 0.01])


def test_of_equal_overlaps_the_later_person_is_matched():
    # The first detection is half-way between both people; the second matches only the
    # person at 10.
    two = truth(person(0), person(10))
    curve = miss_rate_curve(two, [found(5, 0.9), found(20, 0.8)])
    np.testing.assert_allclose(curve.fppi, [0, 0.01])
    two = truth(person(10), person(0))
    curve = miss_rate_curve(two, [found(5, 0.9), found(20, 0.8)])
    np.testing.assert_allclose(curve.fppi, [0, 0])


@pytest.mark.parametrize(
    ("subset", "record", "counts"),
    [
        ("reasonable", {"height": 50, "vis_ratio": 0.65}, True),
        ("reasonable", {"height": 49}, False),
        ("reasonable", {"height": 50, "vis_ratio": 0.649}, False),
        ("reasonable_small", {"height": 75}, True),
        ("reasonable_small", {"height": 76}, False),
        ("heavy", {"vis_ratio": 0.2}, True),
        ("heavy", {"vis_ratio": 0.65}, True),
        ("heavy", {"vis_ratio": 0.651}, False),
        ("heavy", {"vis_ratio": 0.199}, False),
        ("all", {"height": 20, "vis_ratio": 0.2}, True),
        ("all", {"height": 19}, False),
        ("all", {"category_id": 2}, False),
        ("all", {"iscrowd": 1}, True),
        (Subset((0, 10)), {"height": 10}, True),
        (Subset((0, 10), (0.5, 1)), {"height": 10, "vis_ratio": 0.4}, False),
    ],
)
def test_subsets_include_both_ends(subset, record, counts):
    curve = miss_rate_curve(truth(person(**record)), [], subset)
    assert curve.positives == int(counts)


def test_category_1_is_evaluated_by_default(caplog):
    """As in the official evaluator. A different name in the file triggers a warning."""
    both = truth(person(0), person(500, category_id=3))
    detections = [found(0), {**found(500), "category_id": 3}]
    for category, box in ((1, 0), (3, 500)):
        of_category = [one for one in detections if one["bbox"][0] == box]
        assert log_average_miss_rate(both, of_category, category_id=category) == 0
        assert miss_rate_curve(both, detections, category_id=category).positives == 1
    assert not caplog.text
    bicycles = {"id": 1, "name": "bicycle"}
    both["categories"] = [bicycles, {"id": 3, "name": "Person"}]
    with caplog.at_level(logging.WARNING):
        miss_rate_curve(both, [], category_id=3)
        assert not caplog.text
        miss_rate_curve(both, [])
        assert "category 1, which is not named person or pedestrian" in caplog.text
        caplog.clear()
        miss_rate_curve({**both, "categories": [{"id": 0, "name": "person"}]}, [])
        assert "category 1, which is not" in caplog.text


def test_image_ids_can_be_numbers_or_strings():
    mixed = {
        "images": [{"id": "b"}, {"id": 2.0}, {"id": 1}],
        "annotations": [person(image_id="b"), person(image_id=2), person(image_id=1.0)],
    }
    detections = [found(image=image) for image in (1, 2, "b")]
    assert log_average_miss_rate(mixed, detections) == 0


def test_detections_of_other_heights_do_not_count():
    """Heights from 50 / 1.25 to below 75 * 1.25 count."""
    heights = [39.9, 40, 93.7, 93.75]
    detections = [found(9 * i, 0.5, height) for i, height in enumerate(heights)]
    curve = miss_rate_curve(truth(person(900)), detections, "reasonable_small")
    assert len(curve.scores) == 2


def test_the_best_1000_detections_are_selected_before_the_height_filter():
    detections = [found(900, 0.5, height=10) for _ in range(999)]
    detections += [found(900, 0.4), found(0, 0.3)]
    assert miss_rate_curve(truth(person(0)), detections).scores.tolist() == [0.4]


def test_random_sets_agree_with_loops_over_the_official_rules():
    generator = np.random.default_rng(0)
    for _ in range(40):
        images, annotations, detections = _random_set(generator)
        ground_truth = {"images": images, "annotations": annotations}
        for name, ranges in _RANGES.items():
            expected = _miss_rate_by_loops(images, annotations, detections, ranges)
            got = log_average_miss_rate(ground_truth, detections, name)
            np.testing.assert_allclose(got, expected, rtol=1e-12, err_msg=name)


def _random_set(generator):
    ids = generator.permutation(200)[: generator.integers(2, 130)].tolist()
    annotations, detections = [], []
    for image in ids[:: generator.integers(1, 4)]:
        for _ in range(generator.integers(0, 6)):
            width, height = generator.integers(8, 60), generator.integers(15, 120)
            box = [*generator.integers(-10, 60, 2).tolist(), int(width), int(height)]
            annotations.append(
                {
                    "image_id": image,
                    "category_id": int(generator.choice([1, 1, 1, 2])),
                    "bbox": box,
                    "height": box[3],
                    "vis_ratio": float(generator.choice([0.1, 0.2, 0.5, 0.65, 1.0])),
                    "ignore": int(generator.random() < 0.2),
                }
            )
            for _ in range(generator.integers(0, 3)):
                moved = np.add(box, generator.integers(-6, 7, 4)).tolist()
                score = float(generator.integers(0, 10) / 10)
                detections.append({"image_id": image, "bbox": moved, "score": score})
    for _ in range(generator.integers(0, 40)):
        box = [*generator.integers(0, 90, 2).tolist(), 30, 70]
        detections.append({"image_id": ids[0], "bbox": box, "score": 0.45})
    generator.shuffle(detections)
    return [{"id": image} for image in ids], annotations, detections


def _miss_rate_by_loops(images, annotations, detections, ranges):
    """The miss rate by loops that follow the official rules step by step."""
    low, high, least, most = ranges
    positives, counted = 0, []
    for image in sorted(image["id"] for image in images):
        people = [
            [a["bbox"], _outside(a, ranges), False]
            for a in annotations
            if a["image_id"] == image and a["category_id"] == 1
        ]
        positives += sum(not ignored for _, ignored, _ in people)
        own = [d for d in detections if d["image_id"] == image]
        own = sorted(own, key=lambda d: -d["score"])[:1000]
        for detection in own:
            if not low / 1.25 <= detection["bbox"][3] < high * 1.25:
                continue
            best, overlap = None, 0.5
            for entry in people:
                box, ignored, taken = entry
                if not ignored and not taken:
                    iou = _overlap(detection["bbox"], box, False)
                    if iou >= overlap:
                        best, overlap = entry, iou
            if best is not None:
                best[2] = True
                counted.append((detection["score"], True))
            elif not any(
                ignored and _overlap(detection["bbox"], box, True) >= 0.5
                for box, ignored, _ in people
            ):
                counted.append((detection["score"], False))
    if not positives:
        return math.nan
    if not counted:
        return 100.0
    hits = misses = 0
    fppi, recall = [], []
    for _, hit in sorted(counted, key=lambda c: -c[0]):
        hits, misses = hits + hit, misses + (not hit)
        fppi.append(misses / len(images))
        recall.append(hits / positives)
    total = 0.0
    for rate in _FPPI:
        at = sum(value <= rate for value in fppi) - 1
        if recall[at] == 1:
            return 0.0
        total += math.log(1 - recall[at])
    return 100 * math.exp(total / 9)


def _outside(annotation, ranges):
    low, high, least, most = ranges
    inside = low <= annotation["height"] <= high
    inside = inside and least <= annotation["vis_ratio"] <= most
    return bool(annotation["ignore"]) or not inside


def _overlap(box, other, of_first):
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area, shared = box[2] * box[3], width * height
    return shared / (area if of_first else area + other[2] * other[3] - shared)


def test_ground_truth_and_detections_can_be_json_files(tmp_path):
    truth_file, found_file = tmp_path / "truth.json", tmp_path / "found.json"
    truth_file.write_text(json.dumps(truth(person(0), person(500))))
    found_file.write_text(json.dumps([found(0)]))
    rate = log_average_miss_rate(truth_file, str(found_file))
    assert rate == pytest.approx(50)


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        (3, "be a dictionary"),
        ({"image_id": 0, "bbox": [0, 0, 1, 1]}, '"score"'),
        ({"image_id": 0, "bbox": [0, 0, 1, 1], "score": math.nan}, '"score"'),
        ({"image_id": 0, "bbox": [0, 0, 1], "score": 1}, '"bbox"'),
        ({"image_id": 0, "bbox": [0, 0, -1, 1], "score": 1}, '"bbox"'),
        ({"image_id": 0, "bbox": [0, 0, "a", 1], "score": 1}, '"bbox"'),
        ({"image_id": 0, "bbox": [0, math.inf, 1, 1], "score": 1}, '"bbox"'),
        ({"image_id": 777, "bbox": [0, 0, 1, 1], "score": 1}, '"image_id"'),
        ({"bbox": [0, 0, 1, 1], "score": 1}, '"image_id"'),
        ({"image_id": [], "bbox": [0, 0, 1, 1], "score": 1}, '"image_id"'),
    ],
)
def test_a_malformed_detection_is_reported_with_file_and_index(record, rule, tmp_path):
    file = tmp_path / "found.json"
    file.write_text(json.dumps([found(), record]))
    with pytest.raises(ValueError, match=rf"found\.json: detections\[1\].*{rule}"):
        log_average_miss_rate(truth(person()), file)


def test_malformed_ground_truth_is_reported_with_its_index():
    wrong = truth(person(), person(vis_ratio="half"))
    with pytest.raises(ValueError, match=r'^annotations\[1\].*"vis_ratio"'):
        log_average_miss_rate(wrong, [])
    wrong = truth(person(), {**person(), "image_id": 777})
    with pytest.raises(ValueError, match=r'^annotations\[1\].*"image_id"'):
        log_average_miss_rate(wrong, [])
    with pytest.raises(ValueError, match=r'^images\[1\].*"id"'):
        log_average_miss_rate({"images": [{"id": 1}, {}], "annotations": []}, [])


def test_invalid_arguments(tmp_path):
    with pytest.raises(ValueError, match="`ground_truth` must be .* Received: list"):
        log_average_miss_rate([], [])
    with pytest.raises(ValueError, match="`detections` must be .* Received: dict"):
        log_average_miss_rate(truth(), {})
    with pytest.raises(ValueError, match="`subset` must be one of reasonable, .*'easy'"):
        log_average_miss_rate(truth(), [], "easy")
    file = tmp_path / "broken.json"
    file.write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is not a JSON file"):
        log_average_miss_rate(file, [])
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        log_average_miss_rate(tmp_path / "missing.json", [])

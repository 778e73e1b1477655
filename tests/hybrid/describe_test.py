import keras
import pytest

import keras_hybrid
import tiny
from detectors import small
from keras_hybrid.hybrid.adapters import Adapter

# The stride doubles at every stage, and the channels are those in tiny.py. A path has one
# weighted layer per student stage, two per teacher stage and one for the classifier.
EXPECTED = """\
teacher 'tiny_teacher':
  stride  channels  ends at
       2         6  out1
       4         8  out2
       8        10  out3

student 'tiny_student':
  stride  channels  ends at
       2         4  out1
       4         6  out2
       8         8  out3

student_first path, 5 weighted layers:
  owner     stride  channels  ends at
  student        2         4  out1 -> 1x1 adapter 4 to 6
  teacher        4         8  out2 -> 1x1 adapter 8 to 6
  student        8         8  out3
  student head

teacher_first path, 6 weighted layers:
  owner     stride  channels  ends at
  teacher        2         6  out1 -> 1x1 adapter 6 to 4
  student        4         6  out2 -> 1x1 adapter 6 to 8
  teacher        8        10  out3 -> 1x1 adapter 10 to 8
  student head

plain path, 4 weighted layers:
  owner     stride  channels  ends at
  student        2         4  out1
  student        4         6  out2
  student        8         8  out3
  student head"""


def test_describe_lists_stages_paths_and_adapters():
    model = keras_hybrid.HybridTransfer(tiny.teacher(), tiny.student())
    assert keras_hybrid.describe(model) == EXPECTED


class Bottleneck(Adapter):
    """An adapter of a user's own."""


def test_describe_names_the_adapters_of_a_users_own():
    pair = tiny.teacher(), tiny.student()
    model = keras_hybrid.HybridTransfer(*pair, adapter=Bottleneck)
    assert keras_hybrid.describe(model) == EXPECTED.replace("1x1 adapter", "Bottleneck")


def test_describe_accepts_a_single_network():
    expected = EXPECTED.split("\n\n")[1]
    assert keras_hybrid.describe(tiny.student()) == expected.replace(
        "student", "network", 1
    )
    assert "network 'faster_rcnn':" in keras_hybrid.describe(small())
    nothing = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    assert keras_hybrid.describe(nothing).endswith(": none")


def test_describe_lists_both_networks_of_a_baseline():
    model = keras_hybrid.baselines.FeatureTransfer(tiny.teacher(), tiny.student(), "at")
    assert keras_hybrid.describe(model) == "\n\n".join(EXPECTED.split("\n\n")[:2])


@pytest.mark.parametrize("value", ["ResNet50", None, keras.layers.Dense(2)])
def test_describe_rejects_anything_but_a_model(value):
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        keras_hybrid.describe(value)

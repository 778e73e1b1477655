"""One network, or a teacher and a student, as a text table to check before training."""

import keras

from keras_hybrid.hybrid.adapters import Adapter
from keras_hybrid.hybrid.paths import STUDENT, TEACHER
from keras_hybrid.hybrid.stages import Network
from keras_hybrid.hybrid.switch_points import stage_table
from keras_hybrid.hybrid.teacher_student import TeacherStudent, as_list


def describe(model: keras.Model) -> str:
    """Describes the stages of a network, or the stages and paths of a `HybridTransfer`.

    Example:

    >>> print(keras_hybrid.describe(keras.applications.VGG16(weights=None)))
    network 'vgg16':
      stride  channels  ends at
           1        64  block1_conv2
    ...

    Args:
        model: A `HybridTransfer`, a `FeatureTransfer`, or a `keras.Model` that can be
            cut into stages.

    Returns:
        A table of the stages of each network. For a `HybridTransfer`, also a table of
        each path, with its number of weighted layers (paper, Fig. 6) and, for each
        segment, the owner, the layer that it ends at, the stride and channels there, and
        the adapter that follows.

    Raises:
        TypeError, ValueError: `model` cannot be cut into stages; the message says why.
    """
    if not isinstance(model, TeacherStudent):
        return stage_table("network", Network(model, "model"))
    networks = *((TEACHER, t) for t in as_list(model.teacher)), (STUDENT, model.student)
    tables = [stage_table(role, Network(network, role)) for role, network in networks]
    tables += [_path_table(path) for path in getattr(model, "paths", ())]
    return "\n\n".join(tables)


def _path_table(path):
    rows = []
    for segment in path.segments:
        end = segment.end
        row = (
            f"  {segment.owner:<8}  {end.stride:>6}  {end.channels:>8}  {end.layer_name}"
        )
        rows.append(row + _adapter(segment))
    heading = f"{path.name} path, {path.weighted_layers} weighted layers:"
    return "\n".join(
        [heading, "  owner     stride  channels  ends at", *rows, "  student head"]
    )


def _adapter(segment):
    if segment.adapter is None:
        return ""
    of_maps = getattr(segment.adapter, "adapter", segment.adapter)  # of a TokenAdapter
    own = type(of_maps) is Adapter
    kind = "1x1 adapter" if own else type(of_maps).__name__
    return f" -> {kind} {segment.end.channels} to {segment.target.channels}"

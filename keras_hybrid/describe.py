"""A pair of networks as a table to look at before training."""

from keras_hybrid.paths import STUDENT, TEACHER
from keras_hybrid.switch_points import stage_table


def describe(model):
    """The stages, paths and adapters of a `HybridTransfer` as text.

    Args:
        model: A `HybridTransfer`.

    Returns:
        Three tables: the stages of both networks; for each path and segment its owner,
        the layer it ends at, the channels there and the adapter behind it; and the
        weighted layers of each path (paper, Fig. 6).
    """
    networks = _networks(model)
    tables = [stage_table(role, networks[role]) for role in (TEACHER, STUDENT)]
    tables += [_path_table(path) for path in model.paths]
    return "\n\n".join(tables)


def _networks(model):
    first, second, _ = model.paths
    return {s.owner: s.network for s in (first.segments[0], second.segments[0])}


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
    return f" -> 1x1 adapter {segment.end.channels} to {segment.target.channels}"

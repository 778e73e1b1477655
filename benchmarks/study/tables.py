"""All tables of the study."""

from benchmarks.study import (
    caltech101,
    camvid,
    cifar10,
    people,
    several,
    transformers,
)

TABLES = {
    table.name: table
    for experiment in (cifar10, transformers, camvid, people, several, caltech101)
    for table in experiment.TABLES
}
"""Tables by name, in the order in which they can be run."""

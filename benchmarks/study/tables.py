"""All tables of the study."""

from benchmarks.study import camvid, cifar10, people, several, transformers

TABLES = {
    table.name: table
    for experiment in (cifar10, transformers, camvid, people, several)
    for table in experiment.TABLES
}
"""Tables by name, in the order in which they can be run."""

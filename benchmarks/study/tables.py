"""All tables of the study."""

from benchmarks.study import camvid, cases, cifar10, people, several, transformers

TABLES = {
    table.name: table
    for experiment in (cifar10, transformers, camvid, people, several, cases)
    for table in experiment.TABLES
}
"""Tables by name, in the order in which they can be run."""

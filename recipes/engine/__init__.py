"""What the three recipes share: flags, networks, training that resumes, results."""

from keras_hybrid.recipes.engine import (
    networks,
    optimizers,
    pictures,
    run,
    settings,
    shell,
    students,
    synthetic,
    teachers,
    workdir,
)
from keras_hybrid.recipes.engine.recipe import Recipe, Results

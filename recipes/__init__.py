"""The paper's experiments, one file each: `python -m keras_hybrid.recipes.imagenet`."""

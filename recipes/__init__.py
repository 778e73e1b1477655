"""The experiments of the paper, one file each: `python -m keras_hybrid.recipes.imagenet`."""

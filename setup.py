"""Packaging: recipes/ and export/ lie at the top of the tree and install as
`keras_hybrid.recipes` and `keras_hybrid.export`. Metadata is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["keras_hybrid", "keras_hybrid.*"]),
        "keras_hybrid.recipes",
        "keras_hybrid.recipes.engine",
        "keras_hybrid.export",
    ],
    package_dir={"keras_hybrid.recipes": "recipes", "keras_hybrid.export": "export"},
    package_data={"keras_hybrid": ["py.typed"]},
)

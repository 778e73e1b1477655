"""Settings of the documentation: `sphinx-build -W -j 16 docs build/docs`."""

import os
import pathlib
import sys
from importlib import metadata

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))  # for docstrings.py and mathml.py
# For the notebooks, which run in processes of their own: no messages about a GPU that is
# not there, nor about widgets for progress bars that are not shown.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")

project = "keras_hybrid"
author = "The keras_hybrid authors"
copyright = author
release = metadata.version("keras_hybrid")
extensions = [
    "docstrings",
    "mathml",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
html_math_renderer = "mathml"

# Pages and notebooks.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds a cell
nb_merge_streams = True
nb_output_stderr = "warn"  # and a warning fails the build

# The reference.
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures would be longer than the texts
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "keras_hybrid"
html_static_path = ["static"]
html_css_files = ["page.css"]
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
# Pages without pages below them have no navigation on the left.
html_sidebars = dict.fromkeys(
    ("index", "quickstart", "how_it_works", "results", "reference", "architecture"), []
)
html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", _show_folders_by_name)


def _show_folders_by_name(app: Sphinx, doctree: nodes.document) -> None:
    """Replaces links to folders of the checkout, which are no pages, by their names."""
    folder = pathlib.Path(doctree["source"]).parent
    for link in list(doctree.findall(addnodes.pending_xref)):
        if (folder / link["reftarget"]).is_dir():
            link.replace_self(nodes.literal("", link.astext()))

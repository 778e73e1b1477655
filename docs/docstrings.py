"""Sphinx extension for docstrings whose code is marked as in Markdown."""

import re
import textwrap

from sphinx.application import Sphinx
from sphinx.util import inspect

_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)(\w?)")
_STARS = re.compile(r"(?<![\w`*])(\*\*?)(?=kwargs\b|args\b)")


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    # Before napoleon, whose priority is 500.
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=400)
    app.connect("autodoc-process-signature", _signature_of_init)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _signature_of_init(app, what, name, obj, options, signature, return_annotation):
    """Of classes, since Keras's have a `__new__` that takes anything."""
    if what != "class":
        return None
    arguments = inspect.signature(obj.__init__, bound_method=True)
    return inspect.stringify_signature(arguments, show_annotation=False), None


def _as_restructured_text(app, what, name, obj, options, lines):
    text = _FENCE.sub(_code_block, "\n".join(lines))
    text = _CODE.sub(_literal, text)
    lines[:] = _STARS.sub(lambda match: r"\*" * len(match[1]), text).split("\n")


def _code_block(match):
    indent, language, body = match.groups()
    body = textwrap.indent(textwrap.dedent(body), f"{indent}    ")
    return f"{indent}.. code-block:: {language}\n\n{body}"


def _literal(match):
    code, following = match.groups()
    # reStructuredText ends a literal only in front of a space or punctuation.
    return f"``{code}``" + (rf"\ {following}" if following else "")

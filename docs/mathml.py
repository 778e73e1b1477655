"""Sphinx extension that writes equations as MathML, which browsers draw themselves."""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer `"mathml"`, which needs neither JavaScript nor a network."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.math_block) -> None:
    equation = convert(node.astext(), display="block")
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    number = f'<span class="eqno">({node["number"]})</span>' if node["number"] else ""
    translator.body.append(f"{equation}{number}</div>")
    raise nodes.SkipNode

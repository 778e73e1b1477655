"""The commands and the code in README, docs/ and the docstrings of the package."""

import ast
import dataclasses
import pathlib
import re
import shlex

import keras_hybrid

_ROOT = pathlib.Path(__file__).parents[1]
_FENCE = re.compile(r"^( *)```([^`\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# A paragraph that is set off, as reStructuredText has literal blocks.
_SET_OFF = re.compile(r"(?<=\n\n)((?: {4}.*\n?)+)")
_COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:python3?|pip|pytest|ruff) ")


@dataclasses.dataclass(frozen=True)
class Block:
    """Text that a reader may copy.

    `page` is a file's path in the checkout or a module's name; `language` that of the
    fence, `"sh"` of commands that a docstring sets off.
    """

    page: str
    language: str
    text: str

    def __str__(self):
        words = re.findall(r"[\w.]+", self.text.replace("keras_hybrid.", ""))
        return f"{self.page}-{'_'.join(words[:8])}"

    @property
    def commands(self):
        """Each as long as its quotation marks and backslashes make it."""
        found, command = [], ""
        for line in self.text.splitlines(keepends=True):
            command += line
            if _is_whole(command):
                found.append(command.strip())
                command = ""
        return found


def _is_whole(command):
    try:
        return bool(shlex.split(command)) and not command.endswith("\\\n")
    except ValueError:  # a quotation goes on
        return False


def words(command):
    """Equal for commands that differ in their line breaks alone."""
    return tuple(shlex.split(command.replace("\\\n", " ")))


def blocks():
    """Every `Block`, those of a page in order."""
    found = [b for page, text in pages().items() for b in fenced(page, text)]
    for module, tree in modules():
        for _, text in docstrings(tree):
            found += fenced(module, text)
            for paragraph in map(_flush_left, _SET_OFF.findall(_FENCE.sub("", text))):
                if _COMMAND.match(paragraph):
                    found.append(Block(module, "sh", paragraph))
    return found


def pages():
    """README and docs/: path in the checkout -> text."""
    paths = [_ROOT / "README.md", *sorted((_ROOT / "docs").rglob("*.md"))]
    return {str(path.relative_to(_ROOT)): path.read_text() for path in paths}


def modules():
    """(name, syntax tree) of each module of the package, as it is imported."""
    root = pathlib.Path(keras_hybrid.__file__).parent
    paths = {path: path.relative_to(root.parent) for path in root.rglob("*.py")}
    if (root.parent / "setup.py").exists():  # a checkout: they lie beside the package
        for name in ("recipes", "export"):
            for path in (root.parent / name).rglob("*.py"):
                paths[path] = "keras_hybrid" / path.relative_to(root.parent)
    for path, place in sorted(paths.items(), key=lambda item: item[1]):
        names = [part for part in place.with_suffix("").parts if part != "__init__"]
        yield ".".join(names), ast.parse(path.read_text())


def docstrings(tree):
    """(name, text) of the module, its classes and functions, without indentation."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            indent = "" if isinstance(node, ast.Module) else " " * (node.col_offset + 4)
            text = ast.get_docstring(node, clean=False) or ""
            text = re.sub(f"^{indent}", "", text, flags=re.MULTILINE)
            yield getattr(node, "name", ""), text


def fenced(page, text):
    """Its blocks; a fence of Sphinx, `{eval-rst}` and the like, is none."""
    return [
        Block(page, language, _flush_left(body))
        for _, language, body in _FENCE.findall(text)
        if not language.startswith("{")
    ]


def _flush_left(text):
    lines = text.splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[indent:] for line in lines).strip("\n") + "\n"

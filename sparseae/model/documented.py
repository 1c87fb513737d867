"""What the keys of a class mean, from the ``#:`` comments above them: they stand in one place."""

from __future__ import annotations

import ast
import inspect
import textwrap


def meanings(declared: type) -> dict[str, str]:
    """The comment above each annotated field of a class, as one line.

    Raises:
        ValueError: if a field has none.
    """
    lines = inspect.getsource(declared).splitlines()
    (body,) = ast.parse(textwrap.dedent("\n".join(lines))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node in body.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        comment, row = [], node.lineno - 2
        while row >= 0 and lines[row].strip().startswith("#"):
            comment.insert(0, lines[row].strip().lstrip("#: "))
            row -= 1
        if not comment:
            raise ValueError(f"{declared.__name__}.{node.target.id}: has no #: comment above it")
        found[node.target.id] = " ".join(comment)
    return found

"""Reading the config that MMEngine keeps in a checkpoint, without running it."""

from __future__ import annotations

import ast
from contextlib import suppress
from typing import Any


def parse_config_text(text: str) -> dict[str, Any]:
    """The settings in the text of a config.

    MMEngine writes it as Python: assignments of literals and ``dict(...)`` calls.
    Whatever else there is, is left out.
    """
    settings: dict[str, Any] = {}
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                with suppress(ValueError, TypeError):
                    value = ast.literal_eval(_DictCalls().visit(node.value))
                    settings[node.targets[0].id] = value
    return settings


class _DictCalls(ast.NodeTransformer):
    """Makes a literal of ``dict(...)``."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if node.args or getattr(node.func, "id", None) != "dict":
            return node
        keys: list[ast.expr | None] = [ast.Constant(k.arg) for k in node.keywords]
        return ast.Dict(keys, [k.value for k in node.keywords])

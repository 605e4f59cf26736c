"""The values of configs that are not run, and in what they differ."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence


def config_values(text: str) -> dict[str, str]:
    """The options of a config as MMEngine writes it, by dotted name, as source text.

    Nothing is executed. Lists of dicts are entered, others are values. What is no
    Python, or too deeply nested, has none.
    """
    try:
        body = ast.parse(text).body
        return {
            name: ast.unparse(value)
            for node in body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            for name, value in _leaves(node.targets[0].id, node.value)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def _leaves(name: str, node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    items = list(_items(node))
    if not items:
        yield name, node
    for key, value in items:
        yield from _leaves(f"{name}.{key}", value)


def _items(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """What a node holds by name or number; nothing if it is a value."""
    if isinstance(node, ast.Call):
        for part in node.args:  # dict({"a.b": 2}), as MMEngine writes odd names
            yield from _items(part)
        yield from ((keyword.arg or "**", keyword.value) for keyword in node.keywords)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            name = "**" if key is None else ast.unparse(key).strip("'\"")
            yield name, value
    elif isinstance(node, (ast.List, ast.Tuple)) and any(
        isinstance(part, (ast.Call, ast.Dict)) for part in node.elts
    ):
        yield from ((str(number), part) for number, part in enumerate(node.elts))


def differing_values(configs: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Of :func:`config_values`, the options that are not the same in all configs.

    By name, a value for each config; ``-`` where it lacks the option.
    """
    names = {name: None for config in configs for name in config}  # in their order
    rows = {name: [config.get(name, "-") for config in configs] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}

"""Fields of a ``quantization_config``, each checked: whole numbers, group sizes, lists of names, objects.

All raise ``ValueError`` for a value that makes no sense, naming the field.
"""

from typing import Any

from .names import Names


def whole(config: dict[str, Any], name: str, default: int | None = None, least: int = 1, most: int = 1 << 20) -> int:
    value = config.get(name, default)
    value = default if value is None else value
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"quantization_config: {name} = {value!r:.60}: must be a whole number, {least} to {most:,}")
    return value


def group_size(config: dict[str, Any], *names: str, default: int | None = None) -> int | None:
    """Weights of a row that share a scale; None for -1: a whole row."""
    name = next((n for n in names if config.get(n) is not None), names[0])
    value = whole(config, name, default if default is not None else -1, least=-1)
    return value if value > 0 else None


def names_in(config: dict[str, Any], *fields: str) -> Names:
    found: list[str] = []
    for field in fields:
        value = config.get(field)
        value = [value] if isinstance(value, str) else value or []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"quantization_config: {field} = {value!r:.60}: must be a list of names")
        found += value
    return Names.of(found)


def objects(config: dict[str, Any], field: str) -> dict[str, dict[str, Any]]:
    value = config.get(field) or {}
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        raise ValueError(f"quantization_config: {field} = {value!r:.60}: must be an object of objects")
    return value

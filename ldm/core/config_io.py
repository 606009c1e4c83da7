"""Strict conversion between YAML or JSON dictionaries and typed, frozen dataclasses.

A field typed as a union of dataclasses is chosen by its `kind`; an unknown key is an error that names the nearest
known one. Nothing is ever silently ignored or coerced, except int to float and list to tuple, which YAML cannot spell.
"""

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key, what is wrong and what to do."""


def from_dict(kind: type[Config], value: Mapping[str, Any], where: str = "config") -> Config:
    """Build the dataclass `kind` from a dictionary, checking every key and every type.

    Args:
        kind: a dataclass type.
        value: keys are field names; nested dataclasses are nested dictionaries.
        where: prefix of the key path in error messages.

    Raises:
        ConfigError: unknown or missing key, value of the wrong type, or a value that the dataclass itself refuses.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping of {kind.__name__} fields, got {value!r}")
    known = {f.name: f for f in fields(cast(Any, kind))}
    for key in value:
        if key not in known:
            raise ConfigError(f"{where}.{key}: unknown key; {_suggest(str(key), known)}")
    hints = get_type_hints(kind)
    arguments = {}
    for name, field in known.items():
        if name in value:
            arguments[name] = _convert(hints[name], value[name], f"{where}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where}.{name}: missing; {kind.__name__} needs it")
    try:
        return kind(**arguments)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def to_dict(config: Any) -> Any:
    """The inverse of `from_dict`: plain dictionaries, lists, numbers and strings, ready for JSON or YAML."""
    if is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, list | tuple):
        return [to_dict(item) for item in config]
    if isinstance(config, Mapping):
        return {key: to_dict(item) for key, item in config.items()}
    return str(config) if isinstance(config, Path) else config


def load(
    path: str | Path, kind: type[Config], overrides: Sequence[str] = (), texts: Mapping[str, str] | None = None
) -> Config:
    """Read a YAML file, its optional one parent (`base: other.yaml`, relative to it), and dotted overrides.

    Args:
        path: the YAML file; only what differs from the dataclass defaults needs to stand in it.
        kind: the dataclass to build.
        overrides: items such as `optim.lr=1e-4`; the value is read as YAML.
        texts: dotted keys and texts that are taken as they are, such as folders; an override goes before them.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not describe a `kind`.
    """
    tree = read_tree(Path(path))
    for key, text in (texts or {}).items():
        _assign(tree, key.split("."), text)
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"override '{item}': expected key=value, such as optim.lr=1e-4")
        _assign(tree, key.strip().split("."), _parse_yaml(text, f"override '{item}'"))
    return from_dict(kind, tree, "config")


def dump_yaml(config: Any) -> str:
    """The resolved configuration as YAML text, in field order."""
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False)


def read_tree(path: Path, parents: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file over its optional parent, as plain dictionaries; `parents` are the files that led here.

    Raises:
        ConfigError: the file is missing, or is not YAML with a mapping at the top.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    if parents and len(parents) > 1:
        raise ConfigError(f"{parents[0]}: 'base' may go one level deep, but {parents[-1]} has a base of its own")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8") from error
    tree = _parse_yaml(text, str(path)) or {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, got {type(tree).__name__}")
    if "base" not in tree:
        return tree
    base = read_tree(path.parent / str(tree.pop("base")), (*parents, path))
    return _merged(base, tree)


def _parse_yaml(text: str, where: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML ({str(error).splitlines()[0]})") from error
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 (no dot) as text; people mean the number
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`change` over `base`, key by key. A section that names another `kind` starts afresh."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("kind", old.get("kind")) == old.get("kind"):
            value = _merged(old, value)
        result[key] = value
    return result


def _assign(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        child = tree.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override '{'.'.join(path)}': '{name}' is a value, not a section")
        tree = child
    tree[path[-1]] = value


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}; write [{value}]")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f"{where}: expected {len(arguments)} values, got {len(value)}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a mapping, got {value!r}")
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if is_dataclass(hint):
        return from_dict(cast(Any, hint), value, where)
    return _convert_scalar(hint, value, where)


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # 1e-4 without a dot, inside a YAML file
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}")


def _convert_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in members:
        return None
    by_kind = {_kind_of(member): member for member in members if is_dataclass(member)}
    if isinstance(value, Mapping) and by_kind:
        if len(by_kind) == 1 and "kind" not in value:
            return from_dict(cast(Any, next(iter(by_kind.values()))), value, where)
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in by_kind:
            raise ConfigError(f"{where}.kind: {kind!r}; {_suggest(str(kind), by_kind)}")
        return from_dict(cast(Any, by_kind[kind]), value, where)
    errors = []
    for member in members:
        if member is type(None) or is_dataclass(member):
            continue
        try:
            return _convert(member, value, where)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError(errors[0] if errors else f"{where}: {value!r} does not fit; expected a section with a 'kind'")


def _kind_of(member: Any) -> str:
    return str(next((f.default for f in fields(member) if f.name == "kind"), member.__name__))


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(map(str, known)))}"

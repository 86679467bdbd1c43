"""Reads YAML without its surprises: one document, plain text keys, none twice, no aliases, no tags of programs.

The reader is libyaml's safe one. YAML 1.1 gives the last of two equal keys and lets a few hundred bytes of aliases
grow without bound; both are refused here.
"""

from pathlib import Path
from typing import Any

import yaml

LIMIT = 1 << 20
"""Most bytes of a file."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the slow one where PyYAML came without libyaml


class Refused(ValueError):
    """The file is not what it should be; the text says what and where."""


def load(path: Path) -> Any:
    """Content of a file.

    Raises:
        Refused: it cannot be read, is too large, or is not YAML as this module wants it.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(LIMIT + 1)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    if len(data) > LIMIT:
        raise Refused(f"{path}: larger than {LIMIT} bytes")
    try:
        return parse(data)
    except Refused as error:
        raise Refused(f"{path}: {error}") from error


def parse(data: bytes | str) -> Any:
    """What a document says.

    Raises:
        Refused: no YAML, an alias, a key twice, a key that is no text, or an unknown tag.
    """
    try:
        for event in yaml.parse(data, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise Refused(f"line {line}: aliases (*{event.anchor}) are not allowed")
        node = yaml.compose(data, Loader=_Loader)
        if node is None:
            return None
        _check_keys(node, "")
        return yaml.load(data, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(" ".join(str(error).split()) or "nested too deep") from error


def dump(content: Any) -> str:
    """A document that `parse` reads back; keys keep their order."""
    text: str = yaml.safe_dump(content, sort_keys=False, default_flow_style=False, allow_unicode=False)
    return text


def _check_keys(node: Any, place: str) -> None:
    """Refuse keys that are no plain text or appear twice; `place` is the dotted key of the node."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, place)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise Refused(f"line {line}: {place or 'the document'} has a key that is no text")
        name = f"{place}.{key.value}" if place else key.value
        if key.value in seen:
            raise Refused(f"line {line}: {name} is given twice")
        seen.add(key.value)
        _check_keys(value, name)

"""The reference tables of docs/, made from the types that check requests: `make reference` writes them anew.

A page marks where one belongs; what is between the marks is made here:

    <!-- reference: app.query_request.QueryRequest -->
    <!-- end of reference -->
"""

from __future__ import annotations

import enum
import re
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from app.walk import members

DOCS = Path(__file__).parent.parent / "docs"
MARKED = re.compile(
    r"(?P<begin><!-- reference: (?P<module>[\w.]+)\.(?P<name>\w+) -->\n).*?(?P<end><!-- end of reference -->)",
    re.S,
)
WORDS = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "`true` or `false`",
    type(None): "null",
    Any: "any",
}


def with_references(page: str) -> str:
    """`page` with its tables as they should be."""

    def written(match: re.Match[str]) -> str:
        kind = getattr(import_module(match["module"]), match["name"])
        return f"{match['begin']}{table(kind)}{match['end']}"

    return MARKED.sub(written, page)


def table(kind: type[msgspec.Struct]) -> str:
    """The members of a struct in Markdown."""
    lines = ["| Member | Value | Meaning |", "| --- | --- | --- |"]
    defaults = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, member in members(kind).items():
        default = defaults[name].default
        about = [_description(member.kind)]
        if member.required:
            about.append("Required.")
        elif isinstance(default, str | int | enum.Enum) and default is not False:
            about.append(f"Default: `{default.value if isinstance(default, enum.Enum) else default}`.")
        meaning = " ".join(filter(None, about)).replace("|", "\\|")
        lines.append(f"| `{name}` | {_type(member.kind)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _options(kind: Any) -> list[Any]:
    bare = _bare(kind)
    if get_origin(bare) not in (Union, UnionType):
        return [kind]
    return [option for option in get_args(bare) if option is not msgspec.UnsetType]


def _bare(kind: Any) -> Any:
    return _bare(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def _metas(kind: Any) -> list[msgspec.Meta]:
    """Those of the type, then those of the types in it that it is made of."""
    own = [meta for meta in getattr(kind, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    options = _options(kind)
    return own + ([meta for option in options for meta in _metas(option)] if options != [kind] else [])


def _description(kind: Any) -> str:
    """What is written beside the type, and beside the types that it offers."""
    found = [meta.description.rstrip(".") + "." for meta in _metas(kind) if meta.description]
    return " ".join(dict.fromkeys(found))


def _type(kind: Any) -> str:
    return " or ".join(_one_type(option) for option in _options(kind))


def _one_type(kind: Any) -> str:
    bare = _bare(kind)
    if titles := [meta.title for meta in _metas(kind) if meta.title]:
        return titles[0]
    if _options(kind) != [kind]:
        return _type(kind)
    if isinstance(bare, type) and issubclass(bare, enum.Enum):
        return ", ".join(f"`{one.value}`" for one in bare)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return f"[{bare.__name__}](#{bare.__name__.lower()})"
    if get_origin(bare) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(bare))
    if get_origin(bare) is tuple:
        items = _type(get_args(bare)[0])
        return f"array of ({items})" if " or " in items else f"array of {items}"
    return WORDS[bare] + _range(kind)


def _range(kind: Any) -> str:
    bounds = [(meta.ge, meta.le) for meta in _metas(kind) if meta.ge is not None]
    return f" {bounds[0][0]} to {bounds[0][1]:,}" if bounds else ""


def main() -> None:
    """Write every page that has marks."""
    for path in sorted(DOCS.glob("*.md")):
        page = path.read_text()
        if (written := with_references(page)) != page:
            path.write_text(written)
            print(f"{path.name}: written")


if __name__ == "__main__":
    main()

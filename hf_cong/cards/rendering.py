# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Facts to the text of a card: strict templates, in which no fact can be anything but text.

Whatever a template prints goes through [`as_markdown`]: text becomes a code span, in which Markdown and HTML mean
nothing. What is Markdown on purpose has the type [`Markdown`], and only code of this package makes it.
"""

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

_LONGEST = 200  # characters of one value
_PACKAGE = Path(__file__).parents[1]


class _Dumper(yaml.SafeDumper):
    """Quotes what PyYAML takes for text and the Hub, whose YAML is 1.2, for a number: `1e3`."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.?\d[\d_.]*([eE][-+]?\d+)?|0o[0-7]+)"), list("-+.0123456789")
)


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def plain(value: object) -> str:
    """A value as one line of printable text without direction marks and other invisible characters."""
    kept = []
    for character in str(value)[: 50 * _LONGEST]:
        category = unicodedata.category(character)
        if character.isspace() or category in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        elif category not in ("Cf", "Cs", "Co", "Cn"):
            kept.append(character)
    text = " ".join("".join(kept).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def code(value: object) -> Markdown:
    """A value as a code span."""
    text = plain(value)
    if not text:
        return Markdown("(empty)")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return Markdown(f"{fence}{pad}{text}{pad}{fence}")


def as_markdown(value: object) -> str:
    """What a template prints for a value. A missing one is an error of the template."""
    if value is None:
        raise ValueError("A template prints a fact that is missing; it has to ask for it first.")
    if isinstance(value, Markdown):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return code(value)


def literal(value: str) -> Markdown:
    """Text as a string of Python code, in ASCII and on one line."""
    quoted = ascii(value)
    return Markdown(quoted if '"' in quoted or "\\'" in quoted else f'"{quoted[1:-1]}"')


def table(rows: Sequence[Mapping[str, object]]) -> Markdown:
    """Rows of equal keys as a table; `None` is a dash. The titles are ours, the cells anyone's."""
    titles = list(rows[0])
    cells = [["-" if row[title] is None else as_markdown(row[title]) for title in titles] for row in rows]
    lines = [titles, ["---"] * len(titles), *cells]
    # A bar ends a cell even within a code span; a backslash before it is taken away, there too.
    return Markdown("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines))


def front_matter(metadata: Mapping[str, Any]) -> str:
    """Metadata as YAML; what is `None` or empty is left out."""
    kept = {name: value for name, value in metadata.items() if value is not None and value != []}
    return yaml.dump(kept, Dumper=_Dumper, sort_keys=False, width=1000)


def render(template: str, facts: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """
    A card: its metadata, then the template.

    Args:
        template (`str`): A file of `model_cards`, without `.md.jinja`.
        facts (`Mapping`): What the template may use. A name it uses and that is not there is an error.
        metadata (`Mapping`): The front matter.
    """
    return f"---\n{front_matter(metadata)}---\n\n{render_body(template, facts)}\n"


def render_body(template: str, facts: Mapping[str, Any]) -> str:
    """A template without metadata, as [`render`] takes it."""
    body = _environment().get_template(f"{template}.md.jinja").render(**facts)
    return re.sub(r"\n{3,}", "\n\n", body).strip()


def templates() -> Path:
    """The folder of the templates: in the installed package, or beside it in a checkout."""
    inside = _PACKAGE / "model_cards"
    return inside if inside.is_dir() else _PACKAGE.parent / "model_cards"


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(templates()),
        undefined=StrictUndefined,
        finalize=as_markdown,
        autoescape=False,  # that is for HTML; `finalize` escapes, and for Markdown
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["literal"] = literal
    return environment

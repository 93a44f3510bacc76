"""Rows as a person reads them on a terminal: a table, or one record under the other where none fits.

Cells are JSON text, so a number keeps its digits and a string is told from null. Whatever a client sent may
hold escape sequences: they are shown, not obeyed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from workers import output
from workers.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PIPE_WIDTH = 1_000_000  # nothing is cut where a program reads
NARROWEST = 16  # a column that has less is no use: then records
_NULL = b"null"


def show(columns: Sequence[str], rows: Sequence[Sequence[bytes]]) -> None:
    """Print `rows`, whose cells are JSON text in the order of `columns`, on standard output."""
    from rich import box  # noqa: PLC0415 - costs a start that prints no table
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    is_terminal = output.is_terminal()
    width = shutil.get_terminal_size().columns if is_terminal else PIPE_WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False, soft_wrap=False)
    names = [printable(name) for name in columns]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(names):
        is_number = all(row[index] == _NULL or row[index][:1] in b"-0123456789" for row in rows)
        table.add_column(Text(name), justify="right" if rows and is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    wanted = console.measure(table, options=console.options.update(max_width=PIPE_WIDTH)).maximum
    with output.told_or_enough():
        with console.capture() as drawn:  # it would end with a 1 where the reader has gone
            if wanted <= width or len(names) * NARROWEST <= width:
                console.print(table)
            else:
                _records(console, names, rows)
        sys.stdout.write(drawn.get())
        sys.stdout.flush()


def _records(console: Console, names: Sequence[str], rows: Sequence[Sequence[bytes]]) -> None:
    from rich.text import Text  # noqa: PLC0415

    widest = max(map(len, names))
    for number, row in enumerate(rows, 1):
        console.print(Text(f"-- {number} " + "-" * 20, style="dim"))
        for name, cell in zip(names, row, strict=True):
            console.print(Text(f"{name:<{widest}}  ", style="bold").append_text(_cell(cell)))


def _cell(value: bytes) -> Text:
    from rich.text import Text  # noqa: PLC0415

    if value == _NULL:
        return Text("null", style="dim")
    if value.startswith(b'"'):
        return Text(printable(str(msgspec.json.decode(value))))
    return Text(printable(value.decode()))

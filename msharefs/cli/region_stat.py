"""mshare stat: one region as a table and as a drawn bar of its address range."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from msharefs._layout import Layout, Mapping
from msharefs.cli import _bar, _format, _mounts, _proc, _regions, _screen, listing
from msharefs.cli._params import REGION, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_COLUMNS = (
    _screen.Column("OFFSET", right=True),
    _screen.Column("SIZE", right=True),
    _screen.Column("PROT"),
    _screen.Column("WHAT"),
)
_MOST_ROWS = 64
"""A terminal gets no longer table, unless asked for."""


@click.command(short_help="Show what is mapped in a region.")
@click.argument("path", type=REGION)
@json_option
@click.option("--all", "everything", is_flag=True, help="Show all mappings, however many.")
def stat(path: str, *, as_json: bool, everything: bool) -> None:
    """Show a region: its memory, the cost of its page tables, and what is mapped where."""
    mount, facts = _regions.look_at(path)
    huge = _regions.HugePages.of(_mounts.status_or_nothing(mount))
    scan = _proc.scan(mount.device)
    pids = scan.attached.get(facts.file.st_ino, [])
    if as_json:
        print(json.dumps(document(mount, facts, huge, pids), indent=2))
        return
    layout = _regions.needs_layout(facts)
    _screen.show(*_summary(facts, layout, huge, len(pids)))
    if facts.size:
        _screen.show("", *drawing(layout), "")
        limit = None if everything or not sys.stdout.isatty() else _MOST_ROWS
        _screen.show(*_mapping_table(layout, limit))
    blind = listing.blind_spot(scan)
    if blind:
        _screen.note(blind)


def document(
    mount: _mounts.Mount, facts: _regions.Facts, huge: _regions.HugePages, pids: list[int]
) -> dict[str, Any]:
    """What --json prints."""
    layout = _regions.needs_layout(facts)
    small, here = huge.table_cost(layout)
    return listing.region_document(mount, facts, huge) | {
        "pids": pids,
        "page_tables": {"small_pages": small, "here": here},
        "creator": asdict(layout.creator),
        "maps": layout.maps,
        "unmaps": layout.unmaps,
        "layout": [asdict(mapping) for mapping in layout.mappings],
    }


def drawing(layout: Layout) -> Iterator[RenderableType]:
    """The bar, its scale and its legend."""
    unicode = _screen.has_unicode()
    width = _screen.drawing_width()
    row = _bar.cells(layout.mappings, layout.size, width)
    end = _format.size(layout.size)
    middle = _format.size(layout.size // 2)
    left = max((width - len(middle)) // 2, 2)
    right = max(width - left - len(middle) - len(end), 1)
    yield _screen.line((f"0{' ' * (left - 1)}{middle}{' ' * right}{end}", "dim"))
    yield _screen.line(*_bar.runs(row, unicode=unicode))
    yield _screen.line(*_bar.legend(row, unicode=unicode))


def _summary(
    facts: _regions.Facts, layout: Layout, huge: _regions.HugePages, users: int
) -> Iterator[RenderableType]:
    creator = layout.creator
    yield _field("Region", facts.shown, "bold cyan")
    if not facts.size:
        yield _field("Size", "not set yet, so nothing can be mapped")
    else:
        mapped = (
            f"{_format.size(layout.mapped)} in {_format.count(len(layout.mappings), 'mapping')}"
        )
        yield _field("Size", f"{_format.size(facts.size)}, mapped {mapped}")
        yield _field("Memory", _memory(facts, layout, huge))
    if layout.mappings:
        yield _field("Page tables", _tables(layout, huge))
    yield _field(
        "Owner",
        f"{_format.name(facts.owner)}:{_format.name(facts.group)} {facts.mode}, "
        f"created by process {creator.pid} of {_proc.user_name(creator.uid)}",
    )
    yield _field(
        "In use",
        f"attached by {_format.count(users, 'process', 'processes')}, "
        f"open {_format.count(layout.open_handles, 'time')}",
    )
    yield _field(
        "Changes",
        f"mapped {_format.count(layout.maps, 'time')}, "
        f"unmapped {_format.count(layout.unmaps, 'time')} so far",
    )


def _memory(facts: _regions.Facts, layout: Layout, huge: _regions.HugePages) -> str:
    words = f"{_format.size(facts.memory)}, {_format.size(layout.reserved)} of it reserved"
    if layout.mapped:
        share = _format.percent(huge.bytes_of(layout), layout.mapped)
        words += f"; {share} of the mappings in 2 MiB pages"
    return words


def _tables(layout: Layout, huge: _regions.HugePages) -> str:
    small, here = huge.table_cost(layout)
    # Entries of 2 MiB take eight bytes each, in tables that small pages need as well.
    cost = f"{_format.size(here)} a process" if here else "next to nothing for a process"
    return f"{cost} that touches all of it, {_format.size(small)} with 4 KiB pages"


def _mapping_table(layout: Layout, limit: int | None) -> Iterator[RenderableType]:
    rows = list(_rows(layout))
    yield _screen.table(_COLUMNS, rows[:limit])
    if limit is not None and len(rows) > limit:
        left = _format.count(len(rows) - limit, "line")
        yield _screen.text(f"{left} more; --all shows them", "dim")


def _rows(layout: Layout) -> Iterator[list[str | Text]]:
    """Mappings and the holes between them, in order."""
    position = 0
    for mapping in layout.mappings:
        if mapping.offset > position:
            yield _hole(position, mapping.offset)
        kind = _bar.kind_of(mapping)
        yield [
            _format.exact_size(mapping.offset),
            _format.exact_size(mapping.size),
            _format.prot(mapping.prot),
            _screen.text(_what(mapping), kind.style),
        ]
        position = mapping.end
    if position < layout.size:
        yield _hole(position, layout.size)


def _what(mapping: Mapping) -> str:
    words = _bar.kind_of(mapping).label
    return f"{words}, 2 MiB pages" if mapping.huge and not mapping.reserve else words


def _hole(start: int, end: int) -> list[str | Text]:
    words = (_format.exact_size(start), _format.exact_size(end - start), "", "hole")
    return [_screen.text(word, "dim") for word in words]


def _field(name: str, words: str, style: str = "") -> RenderableType:
    # Wrapped where the terminal ends, not cut: these lines are the answer.
    from rich.table import Table  # noqa: PLC0415 - only to draw

    field = Table.grid(padding=(0, 2, 0, 0))
    field.add_column(width=11, style="bold")
    field.add_column(overflow="fold")
    field.add_row(_screen.text(name), _screen.text(words, style))
    return field

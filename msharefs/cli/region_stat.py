"""mshare stat: one region as a table and as a drawn bar of its address range."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from msharefs import notation
from msharefs.cli import drawing, formatting, listing, terminal
from msharefs.cli.params import REGION, json_option
from msharefs.client.layout import Layout, MappedFile, Mapping
from msharefs.inspect import mounts, processes, regions

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_COLUMNS = (
    terminal.Column("OFFSET", right=True),
    terminal.Column("SIZE", right=True),
    terminal.Column("PROT"),
    # A file and how far it is written are the answer: never cut.
    terminal.Column("WHAT", folds=True),
)
_MOST_ROWS = 64
"""A terminal gets no longer table, unless asked for."""
_COUNTING = "counting what was changed"


@click.command(short_help="Show what is mapped in a region.")
@click.argument("path", type=REGION)
@json_option
@click.option("--all", "everything", is_flag=True, help="Show all mappings, however many.")
def stat(path: str, *, as_json: bool, everything: bool) -> None:
    """Show a region: its memory, the cost of its page tables, and what is mapped where. Of files
    that are written back it is counted what was changed in the region and is not written yet."""
    mount, facts = regions.look_at(path)
    status = mounts.status_or_nothing(mount)
    scan = regions.scan_for(facts, mounts.devices_of(mount, status), mounts.supervisor_of(status))
    pids = scan.attached.get(facts.file.st_ino, [])
    if as_json:
        with terminal.working(_COUNTING):
            document = regions.full_document(facts, mount, pids)
        print(json.dumps(document, indent=2))
        return
    layout = regions.needs_layout(facts)
    obstacle = regions.obstacle_to_huge_pages(status)
    terminal.show(*_summary(facts, layout, obstacle, len(pids)))
    if layout.size:
        terminal.show("", *picture(layout), "")
        limit = None if everything or not sys.stdout.isatty() else _MOST_ROWS
        with terminal.working(_COUNTING):
            changed = regions.changed_bytes(facts, layout.mappings[:limit])
        terminal.show(*_mapping_table(layout, changed, limit))
    blind = listing.blind_spot(scan)
    if blind:
        terminal.note(blind)


def picture(layout: Layout) -> Iterator[RenderableType]:
    """The bar, its scale and its legend."""
    unicode = terminal.has_unicode()
    width = terminal.drawing_width()
    row = drawing.cells(layout.mappings, layout.size, width)
    end = notation.size(layout.size)
    middle = notation.size(layout.size // 2)
    left = max((width - len(middle)) // 2, 2)
    right = max(width - left - len(middle) - len(end), 1)
    yield terminal.line((f"0{' ' * (left - 1)}{middle}{' ' * right}{end}", "dim"))
    yield terminal.line(*drawing.runs(row, unicode=unicode))
    yield terminal.line(*drawing.legend(row, unicode=unicode))


def _summary(
    facts: regions.Facts, layout: Layout, obstacle: str | None, users: int
) -> Iterator[RenderableType]:
    creator, region = layout.creator, facts.summary()
    yield _field("Region", formatting.name(facts.name), "bold cyan")
    if not layout.size:
        yield _field("Size", "not set yet, so nothing can be mapped")
    else:
        mapped = (
            f"{notation.size(layout.mapped)} in {formatting.count(len(layout.mappings), 'mapping')}"
        )
        yield _field("Size", f"{notation.size(layout.size)}, mapped {mapped}")
        yield _field("Memory", _memory(region, obstacle))
    if layout.mappings:
        yield _field("Page tables", _tables(layout))
    yield _field(
        "Owner",
        f"{formatting.name(region.owner)}:{formatting.name(region.group)} {region.mode}, "
        f"created by process {creator.pid} of {processes.user_name(creator.uid)}",
    )
    yield _field(
        "In use",
        f"attached by {formatting.count(users, 'process', 'processes')}, "
        f"open {formatting.count(layout.open_handles, 'time')}",
    )
    yield _field(
        "Changes",
        f"mapped {formatting.count(layout.maps, 'time')}, "
        f"unmapped {formatting.count(layout.unmaps, 'time')} so far",
    )


def _memory(region: regions.Summary, obstacle: str | None) -> str:
    words = f"{notation.size(region.memory)}, {notation.size(region.reserved or 0)} of it reserved"
    if region.mapped:
        share = formatting.percent(region.huge or 0, region.mapped)
        words += f"; {share} of the mappings in 2 MiB pages"
        if obstacle is not None and (region.huge or 0) < region.mapped:
            words += f": {obstacle}"
    return words


def _tables(layout: Layout) -> str:
    small, here = regions.table_cost(layout)
    # Entries of 2 MiB take eight bytes each, in tables that small pages need as well.
    cost = f"{notation.size(here)} a process" if here else "next to nothing for a process"
    return f"{cost} that touches all of it, {notation.size(small)} with 4 KiB pages"


def _mapping_table(
    layout: Layout, changed: dict[int, int | None], limit: int | None
) -> Iterator[RenderableType]:
    rows = list(_rows(layout, changed))
    yield terminal.table(_COLUMNS, rows[:limit])
    if limit is not None and len(rows) > limit:
        left = formatting.count(len(rows) - limit, "line")
        yield terminal.text(f"{left} more; --all shows them", "dim")


def _rows(layout: Layout, changed: dict[int, int | None]) -> Iterator[list[str | Text]]:
    """Mappings and the holes between them, in order."""
    position = 0
    for mapping in layout.mappings:
        if mapping.offset > position:
            yield _hole(position, mapping.offset)
        kind = drawing.kind_of(mapping)
        yield [
            notation.exact_size(mapping.offset),
            notation.exact_size(mapping.size),
            formatting.prot(mapping.prot),
            terminal.text(_what(mapping, changed.get(mapping.offset)), kind.style),
        ]
        position = mapping.end
    if position < layout.size:
        yield _hole(position, layout.size)


def _what(mapping: Mapping, changed: int | None) -> str:
    words = drawing.kind_of(mapping).label
    if mapping.file is not None:
        begin = mapping.file.offset
        where = f" from {notation.exact_size(begin)}" if begin else ""
        told = f"{words}: {formatting.name(mapping.file.path)}{where}{_write_back(mapping.file)}"
        return f"{told}, changed: {notation.size(changed)} not written" if changed else told
    return f"{words}, 2 MiB pages" if mapping.huge and not mapping.reserve else words


def _write_back(file: MappedFile) -> str:
    """How far what is changed has come to the file."""
    if file.write_back == "failed":
        return f", {notation.size(file.unwritten)} not written: {file.error}"
    if file.write_back == "lost":
        return ", does not go back any more"
    return ", goes back" if file.write_back else ""


def _hole(start: int, end: int) -> list[str | Text]:
    words = (notation.exact_size(start), notation.exact_size(end - start), "", "hole")
    return [terminal.text(word, "dim") for word in words]


def _field(name: str, words: str, style: str = "") -> RenderableType:
    # Wrapped where the terminal ends, not cut: these lines are the answer.
    from rich.table import Table  # noqa: PLC0415 - only to draw

    field = Table.grid(padding=(0, 2, 0, 0))
    field.add_column(width=11, style="bold")
    field.add_column(overflow="fold")
    field.add_row(terminal.text(name), terminal.text(words, style))
    return field

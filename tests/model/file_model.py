"""What regions and the files mapped into them should hold after any sequence of steps, plainly.

No line of msharefs is used here but the size of a page. A region is a dict of pages, a file is its bytes.
Every page that goes back to a file has what region and file had when they were last in step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msharefs import abi

PAGE = abi.PAGE_SIZE


@dataclass
class FileOf:
    """Where a page goes back to, and its bytes when the two were last in step."""

    name: str
    page: int
    noted: bytes


@dataclass
class Cell:
    """A page of a region that is mapped."""

    data: bytes
    origin: FileOf | None = None


@dataclass
class Shared:
    """A region."""

    cells: dict[int, Cell] = field(default_factory=dict)

    def ranges(self) -> list[tuple[int, int]]:
        """What is mapped, in bytes, neighbours as one."""
        found: list[tuple[int, int]] = []
        for page in sorted(self.cells):
            start = page * PAGE
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], start + PAGE)
            else:
                found.append((start, start + PAGE))
        return found


class FileModel:
    """Regions and files, by their names."""

    def __init__(self, regions: list[str], files: dict[str, bytes]) -> None:
        """Nothing is mapped yet."""
        self.regions = {name: Shared() for name in regions}
        self.files = {name: bytearray(data) for name, data in files.items()}

    def map_file(
        self, region: str, page: int, count: int, file: str, file_page: int, *, goes_back: bool
    ) -> None:
        """So many pages of a file, zeros behind its end. What they replace is written before."""
        self.sync(region, page, count)
        for at in range(count):
            data = self._page(file, file_page + at)
            origin = FileOf(file, file_page + at, data) if goes_back else None
            self.regions[region].cells[page + at] = Cell(data, origin)

    def map_memory(self, region: str, page: int, count: int) -> None:
        """So many pages of zeros. What they replace is written before."""
        self.sync(region, page, count)
        for at in range(page, page + count):
            self.regions[region].cells[at] = Cell(bytes(PAGE))

    def unmap(self, region: str, page: int, count: int) -> None:
        """What was mapped there is written, and gone."""
        self.sync(region, page, count)
        for at in range(page, page + count):
            self.regions[region].cells.pop(at, None)

    def store(self, region: str, page: int, at: int, text: bytes) -> None:
        """A process stores to a page that is mapped."""
        cell = self.regions[region].cells[page]
        cell.data = cell.data[:at] + text + cell.data[at + len(text) :]

    def change_file(self, file: str, offset: int, text: bytes) -> None:
        """Somebody else writes to the file, within its length."""
        self.files[file][offset : offset + len(text)] = text

    def cut(self, file: str, size: int) -> None:
        """Somebody else sets its length."""
        data = self.files[file]
        self.files[file] = data[:size].ljust(size, b"\0")

    def sync(self, region: str, page: int, count: int) -> None:
        """These pages go back: where the region has changed them, whatever is in the file, as far as
        the file goes."""
        cells = self.regions[region].cells
        for at in range(page, page + count):
            cell = cells.get(at)
            if cell is None or cell.origin is None:
                continue
            origin, file = cell.origin, self.files[cell.origin.name]
            inside = min(PAGE, len(file) - origin.page * PAGE)
            if inside <= 0:
                continue
            ours = cell.data[:inside].ljust(PAGE, b"\0")
            # A page that is as it was, whole, is not changed because the file has been cut in it.
            if origin.noted not in (ours, cell.data):
                start = origin.page * PAGE
                file[start : start + inside] = ours[:inside]
                origin.noted = ours

    def _page(self, file: str, page: int) -> bytes:
        return bytes(self.files[file][page * PAGE : (page + 1) * PAGE]).ljust(PAGE, b"\0")

"""A random client of RegionManager, and the comparison with the model after each step.

The machine is a hypothesis state machine; test_model.py runs it. It asks only what the
kernel would ask: of inodes that it knows, and of directories.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from msharefs import abi
from msharefs.core import reports
from msharefs.core.attributes import AttributeChange
from msharefs.core.errors import RefusedError
from msharefs.core.inode import Caller, Directory
from msharefs.core.journal import Request
from msharefs.core.layout import Mapping
from msharefs.core.manager import RegionManager
from msharefs.core.mapper import Limits
from msharefs.core.namespace import RootAttributes
from msharefs.core.region import Region
from tests.model import model as plain
from tests.model.model import HUGE, INFO, PAGE, ROOT, Area, Errors, Folder, MapRequest, Model, Node
from tests.unit.support.disks import FakeDisk
from tests.unit.support.fakes import FakeClock, FakeKernel, FakeMemory, FakeSegment, Faults
from tests.unit.support.worlds import attempt, make_manager

LIMITS = plain.Limits(
    capacity=600 * PAGE,
    align=PAGE,
    max_region=4 * HUGE,
    max_mappings=5,
    nr_inodes=9,
)
OWNER = (1001, 2001)
ANONYMOUS = abi.MAP_SHARED | abi.MAP_FIXED | abi.MAP_ANONYMOUS
LATER = 1 << 60
"""More look-ups than a client makes: a manager that was restarted asks the kernel instead."""

picks = st.integers(0, 7)
names = st.sampled_from([b"a", b"b", b"c", b"d"] * 3 + [b"mshare_info", b"n" * 255, b"n" * 256])
modes = st.sampled_from([0o600, 0o755, 0o2770, 0o6755, 0o4711])
page_numbers = st.integers(0, 16)
sizes = st.sampled_from(
    [16 * PAGE, 16 * PAGE, 2 * HUGE, 2 * HUGE, 0, 1, PAGE + 1, -PAGE, LIMITS.max_region + PAGE]
)
lengths = st.one_of(
    st.integers(1, 6).map(lambda pages: pages * PAGE),
    st.integers(1, 6).map(lambda pages: pages * PAGE),
    st.sampled_from([0, 1, PAGE - 1, PAGE + 1, HUGE, 600 * PAGE, (1 << 64) - 1]),
)
starts = st.one_of(
    st.integers(0, 10).map(lambda pages: pages * PAGE),
    st.integers(0, 10).map(lambda pages: pages * PAGE),
    st.sampled_from([0, HUGE, HUGE + PAGE, 1, 2 * HUGE, (1 << 64) - PAGE]),
)
UNKNOWN_FLAG = 1 << 9
flags = st.sampled_from(
    [
        *[ANONYMOUS] * 4,
        *[ANONYMOUS | abi.MAP_NORESERVE] * 3,
        ANONYMOUS | abi.MAP_FIXED_NOREPLACE,
        ANONYMOUS | abi.MAP_POPULATE,
        ANONYMOUS | abi.MAP_HUGETLB,
        ANONYMOUS | abi.MAP_HUGETLB | abi.MAP_NORESERVE,
        ANONYMOUS | abi.MAP_PRIVATE,
        ANONYMOUS | abi.MAP_GROWSDOWN,
        ANONYMOUS | UNKNOWN_FLAG,
        abi.MAP_SHARED | abi.MAP_ANONYMOUS,
    ]
)
protections = st.sampled_from([3, 3, 1, 7, 8])
mostly = st.sampled_from([True] * 7 + [False])


class Machine(RuleBasedStateMachine):
    """`reclaim_later` leaves dead regions to a worker, as the real port to the kernel does with large ones."""

    reclaim_later = False

    def __init__(self) -> None:
        super().__init__()
        faults = Faults()
        self.memory = FakeMemory(LIMITS.capacity, faults=faults)
        self.kernel = FakeKernel(faults, reclaim_later=self.reclaim_later)
        self.clock = FakeClock()
        self.manager = self.make_manager()
        self.model = Model(LIMITS, 0o1777, die_slowly=self.reclaim_later)
        self.strays = False
        self.sound = True
        # What the next change is for.
        self.request: Request | None = None

    def make_manager(self) -> RegionManager:
        """The one under test."""
        return make_manager(
            self.memory,
            self.kernel,
            Limits(LIMITS.align, LIMITS.max_region, LIMITS.max_mappings, LIMITS.nr_inodes),
            RootAttributes(),
            self.clock,
            FakeDisk(),
        )

    # Who is asked about

    def known(self, kind: type[Node] = Node) -> list[Node]:
        """What the kernel knows, by number."""
        every = [self.model.nodes[ino] for ino in sorted(self.model.nodes)]
        return [n for n in every if isinstance(n, kind) and (n.lookups or n.opens or n.ino <= INFO)]

    def folder(self, pick: int) -> int:
        """A directory, removed ones included."""
        every = self.known(Folder)
        return every[pick % len(every)].ino

    def node(self, pick: int) -> int:
        """Any inode."""
        every = self.known()
        return every[pick % len(every)].ino

    def file(self, pick: int) -> int:
        """A region, or anything else if there is none or the highest pick wants it."""
        every = [area.ino for area in self.model.areas() if area.lookups or area.opens]
        return every[pick % len(every)] if every and pick != 7 else self.node(pick)

    def open_area(self, pick: int) -> Area | None:
        """A region that somebody has open; one without a size only for the highest pick."""
        every = [area for area in self.model.areas() if area.opens]
        every = [area for area in every if area.size or pick == 7] or every
        return every[pick % len(every)] if every else None

    def old_name(self, parent: int, pick: int, name: bytes) -> bytes:
        """A name that is there; `name` if there is none, or the highest picks want it."""
        every = sorted(self.model.folder(parent).names)
        return every[pick % len(every)] if every and pick < 6 else name

    def region(self, ino: int) -> Region:
        """The manager's side of it."""
        return self.manager.tables.regions[ino]

    def segment(self, ino: int) -> FakeSegment:
        """Its memory."""
        segment = self.region(ino).segment
        assert isinstance(segment, FakeSegment)
        return segment

    def expect(self, errors: Errors, operation: Callable[[], Any]) -> Any:
        """It must be refused with one of the errnos, or succeed if there is none."""
        wanted = [errno.errorcode[code] for code in sorted(errors)]
        outcome = attempt(operation)
        if isinstance(outcome, RefusedError):
            assert errno.errorcode[outcome.errno] in wanted, str(outcome)
        else:
            assert wanted == [], "it succeeded"
        return outcome

    def before_request(self) -> None:
        """What comes before each request."""
        self.sound = False
        self.learn()

    @initialize()
    def begin(self) -> None:
        """One region to begin with, so that most sequences have something to map."""
        self.create(0, b"a", 0o600)
        self.truncate(0, 16 * PAGE)

    def find_first(self, parent: int, name: bytes) -> None:
        """What the kernel does before it removes or moves a name; a manager that counts
        look-ups does not need it."""

    # Names

    @rule(pick=picks, name=names, mode=modes)
    def create(self, pick: int, name: bytes, mode: int) -> None:
        """CREATE."""
        self.before_request()
        parent = self.folder(pick)
        errors = self.model.one_more_errors(parent, name)
        caller = Caller(7, *OWNER)
        made = self.expect(
            errors, lambda: self.manager.create(self.request, parent, name, mode, caller)
        )
        if not errors:
            self.model.add_area(made.ino, parent, name, mode, OWNER)
            self.model.opened(made.ino)

    @rule(pick=picks, name=names, mode=modes)
    def mknod(self, pick: int, name: bytes, mode: int) -> None:
        """MKNOD."""
        self.before_request()
        parent = self.folder(pick)
        errors = self.model.one_more_errors(parent, name)
        caller, bits = Caller(7, *OWNER), stat.S_IFREG | mode
        made = self.expect(
            errors, lambda: self.manager.mknod(self.request, parent, name, bits, caller)
        )
        if not errors:
            self.model.add_area(made.ino, parent, name, mode, OWNER)

    @rule(pick=picks, name=names, mode=modes)
    def mkdir(self, pick: int, name: bytes, mode: int) -> None:
        """MKDIR."""
        self.before_request()
        parent = self.folder(pick)
        errors = self.model.one_more_errors(parent, name)
        caller = Caller(7, *OWNER)
        made = self.expect(
            errors, lambda: self.manager.mkdir(self.request, parent, name, mode, caller)
        )
        if not errors:
            self.model.add_folder(made.ino, parent, name, mode, OWNER)

    @rule(pick=picks, name=names)
    def lookup(self, pick: int, name: bytes) -> None:
        """LOOKUP."""
        self.before_request()
        parent = self.folder(pick)
        errors = {errno.ENAMETOOLONG} if len(name) > plain.NAME_MAX else set()
        found = self.expect(errors, lambda: self.manager.lookup(parent, name))
        if not errors:
            node = self.model.find(parent, name)
            assert (None if found is None else found.ino) == (None if node is None else node.ino)
            if node:
                node.lookups += 1

    @rule(what=picks, pick=picks, name=names)
    def link(self, what: int, pick: int, name: bytes) -> None:
        """LINK."""
        self.before_request()
        ino, parent = self.file(what), self.folder(pick)
        errors = self.model.link_errors(ino, parent, name)
        self.expect(errors, lambda: self.manager.link(self.request, ino, parent, name))
        if not errors:
            self.model.link(ino, parent, name)

    @rule(pick=picks, which=picks, name=names)
    def unlink(self, pick: int, which: int, name: bytes) -> None:
        """UNLINK."""
        self.before_request()
        parent = self.folder(pick)
        name = self.old_name(parent, which, name)
        self.find_first(parent, name)
        errors = self.model.unlink_errors(parent, name)
        self.expect(errors, lambda: self.manager.unlink(self.request, parent, name))
        if not errors:
            self.model.unlink(parent, name)

    @rule(pick=picks, which=picks, name=names)
    def rmdir(self, pick: int, which: int, name: bytes) -> None:
        """RMDIR."""
        self.before_request()
        parent = self.folder(pick)
        name = self.old_name(parent, which, name)
        self.find_first(parent, name)
        errors = self.model.rmdir_errors(parent, name)
        self.expect(errors, lambda: self.manager.rmdir(self.request, parent, name))
        if not errors:
            self.model.rmdir(parent, name)

    @rule(
        pick=picks,
        which=picks,
        name=names,
        new_pick=picks,
        new_name=names,
        how=st.sampled_from([0, 0, 0, plain.NOREPLACE, plain.EXCHANGE, plain.EXCHANGE, 3, 4]),
    )
    def rename(
        self, pick: int, which: int, name: bytes, new_pick: int, new_name: bytes, how: int
    ) -> None:
        """RENAME2."""
        self.before_request()
        parent = self.folder(pick)
        name = self.old_name(parent, which, name)
        what = (parent, name, self.folder(new_pick), new_name, how)
        self.find_first(parent, name)
        self.find_first(self.folder(new_pick), new_name)
        errors = self.model.rename_errors(*what)
        self.expect(errors, lambda: self.manager.rename(self.request, *what))
        if not errors:
            self.model.rename(*what)

    # Handles and the kernel's cache

    @rule(pick=picks, how=st.sampled_from([os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_TRUNC]))
    def open(self, pick: int, how: int) -> None:
        """OPEN."""
        self.before_request()
        ino = self.file(pick)
        errors = self.model.open_errors(ino, how)
        self.expect(errors, lambda: self.manager.open(self.request, ino, how))
        if not errors:
            self.model.opened(ino, how)

    @rule(pick=picks)
    def release(self, pick: int) -> None:
        """RELEASE."""
        self.before_request()
        every = [node for node in self.known() if node.opens]
        if every:
            ino = every[pick % len(every)].ino
            self.model.released(ino)
            self.learn()
            self.manager.release(self.request, ino)

    @rule(pick=picks, everything=mostly)
    def forget(self, pick: int, everything: bool) -> None:
        """FORGET, of which the last comes when nothing is open."""
        self.before_request()
        every = [node for node in self.known() if node.lookups]
        if not every:
            return
        node = every[pick % len(every)]
        lookups = node.lookups if everything and not node.opens else node.lookups - 1
        if lookups:
            self.model.forgotten(node.ino, lookups)
            self.learn()
            self.manager.forget([(node.ino, lookups)])

    def learn(self) -> None:
        """What the kernel would answer if it was asked whether it knows an inode."""
        self.kernel.known = {
            node.ino for node in self.model.nodes.values() if node.lookups or node.opens
        }

    # Attributes and size

    @rule(pick=picks, mode=modes, chown=st.booleans())
    def change_attributes(self, pick: int, mode: int, chown: bool) -> None:
        """SETATTR of mode, or of owner and group."""
        self.before_request()
        node = self.model.nodes[self.node(pick)]
        change = AttributeChange(uid=5, gid=6) if chown else AttributeChange(mode=mode)
        errors = {errno.EPERM} if node.ino == INFO else set()
        self.expect(errors, lambda: self.manager.setattr(self.request, node.ino, change))
        if errors:
            return
        if chown:
            node.uid, node.gid = 5, 6
            self.model.drop_privileges(node)
        else:
            node.mode = stat.S_IFMT(node.mode) | mode

    @rule(pick=picks, size=sizes)
    def truncate(self, pick: int, size: int) -> None:
        """SETATTR of the size."""
        self.before_request()
        ino = self.file(pick)
        errors = self.model.size_errors(ino, size)
        self.expect(
            errors, lambda: self.manager.setattr(self.request, ino, AttributeChange(size=size))
        )
        if not errors:
            self.model.set_size(ino, size)

    @rule(
        pick=picks,
        mode=st.sampled_from([0, 0, 0, 3]),
        offset=st.sampled_from([0, 0, 0, PAGE]),
        length=sizes.filter(lambda size: size > 0),
    )
    def fallocate(self, pick: int, mode: int, offset: int, length: int) -> None:
        """FALLOCATE, of an open region."""
        self.before_request()
        area = self.open_area(pick)
        if area is None:
            return
        errors = self.model.fallocate_errors(area.ino, mode, offset, length)
        self.expect(
            errors, lambda: self.manager.fallocate(self.request, area.ino, mode, offset, length)
        )
        if not errors:
            self.model.set_size(area.ino, length)

    # Memory

    @rule(
        pick=picks,
        start=starts,
        size=lengths,
        prot=protections,
        how=flags,
        writable=mostly,
    )
    def map(self, pick: int, start: int, size: int, prot: int, how: int, writable: bool) -> None:
        """CREATE_MAPPING."""
        self.before_request()
        area = self.open_area(pick)
        if area is None:
            return
        request = MapRequest(start, size, prot, how, writable)
        errors = self.model.map_errors(area.ino, request)

        def work() -> None:
            wanted = abi.CreateMapping(start, size, 0, prot, how)
            self.manager.mappings.perform(
                self.manager.mappings.plan_map(
                    self.request, self.region(area.ino), wanted, writable=writable
                )
            )

        # A file would be needed without MAP_ANONYMOUS, and none is open.
        if not how & abi.MAP_ANONYMOUS:
            errors.add(errno.EBADF)
        self.expect(errors, work)
        if not errors:
            self.model.map(area.ino, request)

    @rule(pick=picks, start=starts, size=lengths, writable=mostly)
    def unmap(self, pick: int, start: int, size: int, writable: bool) -> None:
        """UNMAP."""
        self.before_request()
        area = self.open_area(pick)
        if area is None:
            return
        errors = self.model.unmap_errors(area.ino, start, size, writable=writable)

        def work() -> None:
            gone = abi.Unmap(start, size)
            mappings = self.manager.mappings
            plan = mappings.plan_unmap(self.request, self.region(area.ino), gone, writable=writable)
            mappings.perform(plan)

        self.expect(errors, work)
        if not errors:
            self.model.unmap(area.ino, start, size)

    @rule(pick=picks, page_pick=st.integers(0, 1 << 20), data=st.binary(min_size=1, max_size=3))
    def touch(self, pick: int, page_pick: int, data: bytes) -> None:
        """A client writes to a mapped page."""
        area = self.open_area(pick)
        if area is None or not area.pages:
            return
        page = sorted(area.pages)[page_pick % len(area.pages)]
        self.clear_strays()
        try:
            self.segment(area.ino).poke(page * PAGE, data.ljust(3, b"."))
        except OSError:
            assert not self.model.can_touch(area.ino, page)
        else:
            assert self.model.can_touch(area.ino, page)
            self.model.touch(area.ino, page, data.ljust(3, b"."))

    @precondition(lambda self: self.model.optional())
    @rule(pick=picks, page=page_numbers)
    def touch_a_hole(self, pick: int, page: int) -> None:
        """A client writes where nothing is mapped, while another's budget is free."""
        area = self.open_area(pick)
        if area is None or area.size is None or (page + 1) * PAGE > area.size:
            return
        if page in area.pages:
            return
        try:
            self.segment(area.ino).poke(page * PAGE, b"stray")
        except OSError:
            return
        self.strays = True

    def clear_strays(self) -> None:
        """What a look at the memory would do some time."""
        if self.strays:
            self.manager.tables.sweep()
            self.strays = False

    @rule()
    def reclaim(self) -> None:
        """The worker gives back what is gone."""
        for ino in self.kernel.take_reclaimable():
            self.manager.tables.reclaimed(ino)
        self.model.reclaimed()

    # Comparison

    @invariant()
    def same_names(self) -> None:
        """Every directory, every attribute, every count."""
        assert len(self.manager.names) == self.model.inodes_used()
        for node in self.model.nodes.values():
            inode = self.manager.getattr(node.ino)
            found = (inode.mode, inode.uid, inode.gid, inode.nlink, inode.opens)
            assert found == (node.mode, node.uid, node.gid, node.nlink, node.opens), node
            if node.ino != ROOT and inode.lookups < LATER:
                assert inode.lookups == node.lookups
            if isinstance(node, Folder):
                assert isinstance(inode, Directory)
                entries = {entry.name: entry.ino for entry in inode.listing(0, inode.end)}
                assert entries == node.names
                assert node.removed or inode.parent == node.parent
        handles = sum(node.opens for node in self.model.nodes.values())
        assert self.manager.tables.open_handles == handles

    @invariant()
    def same_layouts(self) -> None:
        """Every mapping of every region, and what is in its pages."""
        assert sorted(self.manager.tables.regions) == sorted(
            area.ino for area in self.model.areas()
        )
        for area in self.model.areas():
            region = self.region(area.ino)
            assert region.size == (area.size or 0)
            assert (region.maps, region.unmaps) == (area.maps, area.unmaps)
            assert list(region.layout) == [
                Mapping(first * PAGE, last * PAGE, piece.prot, piece.reserve, piece.huge)
                for first, last, piece in area.runs()
            ]
            assert (region.segment is not None) == area.has_segment
            if area.has_segment:
                segment = self.segment(area.ino)
                assert segment.size == (area.size or 0)
                for page in area.pages:
                    found = segment.data.get(page, b"\0\0\0")[:3]
                    assert found == area.data.get(page, b"\0\0\0"), f"page {page}"

    @invariant()
    def same_memory(self) -> None:
        """The sums, what is in use, and that holes have none."""
        ledger, model = self.manager.tables.ledger, self.model
        assert (ledger.reserved, ledger.pending) == (model.reserved(), 0)
        assert ledger.optional == model.optional()
        assert self.memory.limit == min(LIMITS.capacity, model.reserved() + model.optional())
        every = [*model.areas(), *model.reclaiming]
        assert ledger.mappings == sum(len(list(area.runs())) for area in every)
        if not self.strays:
            assert self.memory.used() == model.used()
            size = reports.file_system_size(self.manager, 0)
            assert size.pages_free * PAGE == LIMITS.capacity - model.used()

        self.sound = True

    # The end

    def teardown(self) -> None:
        """Everything goes; then all memory is free and nothing is left. Not after a failure,
        which it would hide."""
        if not self.sound:
            return
        self.learn()
        while self.remove_names(ROOT):
            pass
        for node in [node for ino, node in self.model.nodes.items() if ino > INFO]:
            self.let_go(node)
        for ino in self.kernel.take_reclaimable():
            self.manager.tables.reclaimed(ino)
        self.model.reclaimed()
        self.strays = False
        assert sorted(self.model.nodes) == [ROOT, INFO]
        self.same_names()
        self.same_layouts()
        self.same_memory()
        assert (self.memory.used(), self.memory.limit, self.memory.segments) == (0, 0, {})

    def remove_names(self, parent: int) -> bool:
        """Every name below a directory. Returns whether there was one."""
        found = False
        for name, ino in list(self.model.folder(parent).names.items()):
            if ino == INFO:
                continue
            found = True
            if isinstance(self.model.nodes[ino], Folder):
                self.remove_names(ino)
            self.find_first(parent, name)
            self.before_request()
            if isinstance(self.model.nodes[ino], Folder):
                self.manager.rmdir(self.request, parent, name)
                self.model.rmdir(parent, name)
            else:
                self.manager.unlink(self.request, parent, name)
                self.model.unlink(parent, name)
        return found

    def let_go(self, node: Node) -> None:
        """All handles of an inode, and what the kernel knows."""
        while node.opens:
            self.before_request()
            self.model.released(node.ino)
            self.learn()
            self.manager.release(self.request, node.ino)
        if node.lookups:
            lookups = node.lookups
            self.model.forgotten(node.ino, lookups)
            self.learn()
            self.manager.forget([(node.ino, lookups)])

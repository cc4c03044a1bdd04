/* SPDX-License-Identifier: MIT */
/*
 * ranges.c - taking ranges of the region for memory without a name, and giving them back.
 *
 * No lock is needed to take one.  Its place is told in the table first, and then it is looked
 * whether anybody else has told of the same one: who sees another one steps back, so that no
 * two have it.  Then it is told that this process may have it, and only then memory is put
 * there.  So there is no moment at which a range has memory and no holder, whoever is
 * killed when.
 *
 * An entry whose place is settled is removed only with the run's lock, by this process or by
 * the collector, so that nobody takes away what has got the place since.
 */
#define _GNU_SOURCE
#include "ranges.h"

#include "holdings.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

/* To give back a smaller one takes longer than to make it, so that it is left to the collector,
 * which does it a moment later.  Of larger ones the memory is free when munmap returns. */
#define WORTH_WAITING_FOR HUGE_PAGE

struct range *range_of(struct run_header *run, uint32_t number)
{
	return (struct range *)run_table(run, run->ranges_at) + number;
}

int ranges_tell(struct run_header *run, uint64_t offset, uint64_t size, uint64_t flags,
		uint32_t *number)
{
	uint32_t i;
	int failed;

	for (i = 0; i < run->ranges; i++) {
		struct range *range = range_of(run, i);
		uint64_t expected = 0;

		failed = run_file_extend(run->ranges_at, sizeof(*range), i + 1, &run->ranges_there);
		if (failed)
			return failed;
		if (atomic_load_explicit(&range->offset, memory_order_relaxed) ||
		    !atomic_compare_exchange_strong(&range->offset, &expected,
						    RANGE_USED | RANGE_BLANK))
			continue;
		run_file_raise(&run->ranges_used, i + 1);
		atomic_store(&range->size, size);
		atomic_store(&range->offset, offset | RANGE_USED | flags);
		*number = i;
		return 0;
	}
	return -ENOSR;
}

/* Whether another entry tells of a part of the range, and where that one ends. */
static bool is_told_twice(struct run_header *run, uint32_t number, uint64_t *end)
{
	struct range *own = range_of(run, number);
	uint64_t start = atomic_load(&own->offset) & ~RANGE_FLAGS;
	uint64_t last = start + atomic_load(&own->size) + GAP;
	uint64_t i, used = atomic_load(&run->ranges_used);

	for (i = 0; i < used; i++) {
		struct range *other = range_of(run, (uint32_t)i);
		uint64_t offset = atomic_load(&other->offset);
		uint64_t first = offset & ~RANGE_FLAGS;

		if (i == number || !offset || offset & RANGE_BLANK || first >= last)
			continue;
		*end = first + atomic_load(&other->size);
		if (*end + GAP > start)
			return true;
	}
	return false;
}

/* The run's lock for a call that gives something back; signals stay blocked until unlock(). */
static int lock(struct run_header *run, sigset_t *before)
{
	int failed;

	block_signals(before);
	failed = run_file_lock_soon(run);
	if (failed)
		restore_signals(before);
	return failed;
}

static void unlock(struct run_header *run, const sigset_t *before)
{
	run_file_unlock(run);
	restore_signals(before);
}

/* The place could not be filled.  Without the lock the entry stays until the collector finds
 * that nobody has it. */
static void abandon(struct run_header *run, struct entry *entry, uint32_t number)
{
	sigset_t before;

	windows_release(entry);
	if (lock(run, &before)) {
		holdings_drop(run, number);
		return;
	}
	if (holdings_drop(run, number))
		atomic_store(&range_of(run, number)->offset, 0);
	unlock(run, &before);
}

/* Attach the range and put memory there.  The address, or -errno and nothing has changed. */
static long fill(int fd, const struct window *window, uint64_t offset)
{
	long at = region_attach(fd, window, offset);
	int failed;

	if (is_error(at))
		/* It is about an address that the program insists on. */
		return at == -EEXIST ? -EADDRINUSE : at;
	failed = region_map(fd, offset, window->size, window->prot, window->create);
	if (failed)
		call_munmap((void *)at, window->size);
	return failed ? failed : at;
}

/* From an entry that has the place for itself to a window with memory. */
static long place_at(struct run_header *run, int fd, const struct window *window, uint64_t offset,
		     uint32_t number)
{
	struct range *range = range_of(run, number);
	const uint64_t told = offset | RANGE_USED | RANGE_TOLD;
	uint64_t expected = told;
	struct entry *entry = windows_reserve(number);
	struct piece piece = {.offset = offset, .range = number};
	long at = entry ? holdings_add(run, number) : -ENOMEM;

	/* The collector takes away what is told for a long time, because of processes that were
	 * killed in the middle of it. */
	if (!at && !atomic_compare_exchange_strong(&range->offset, &expected,
						   offset | RANGE_USED | RANGE_FILLING))
		at = -EEXIST;
	if (at) {
		/* Only if it is still what was told: the entry may be another process's by now. */
		expected = told;
		atomic_compare_exchange_strong(&range->offset, &expected, 0);
		if (entry) {
			windows_release(entry);
			holdings_drop(run, number);
		}
		return at;
	}
	at = fill(fd, window, offset);
	if (is_error(at)) {
		abandon(run, entry, number);
		return at;
	}
	atomic_store(&range->offset, offset | RANGE_USED);
	piece.start = (uintptr_t)at;
	piece.end = piece.start + window->size;
	windows_set(entry, &piece);
	return at;
}

/* One try.  -EEXIST: somebody has the place, perhaps up to *from. */
static long place_once(struct run_header *run, int fd, const struct window *window, uint64_t *from,
		       uint64_t *offset)
{
	uint64_t told, end;
	uint32_t number;
	int failed = region_find_free(fd, window->size, *from, offset);

	if (failed)
		return failed;
	*from = 0;
	failed = ranges_tell(run, *offset, window->size, RANGE_TOLD, &number);
	if (failed)
		return failed;
	told = *offset | RANGE_USED | RANGE_TOLD;
	if (is_told_twice(run, number, &end)) {
		*from = end;
		failed = -EEXIST;
	} else if (*offset + window->size > atomic_load(&run->floor) * HUGE_PAGE)
		failed = -EEXIST;
	if (failed) {
		atomic_compare_exchange_strong(&range_of(run, number)->offset, &told, 0);
		return failed;
	}
	return place_at(run, fd, window, *offset, number);
}

static long place_somewhere(struct run_header *run, int fd, const struct window *window,
			    uint64_t *offset)
{
	bool collected = false;
	uint64_t from = 0;
	long at;

	for (;;) {
		bool passed_by = from;

		at = place_once(run, fd, window, &from, offset);
		if (at == -ENOSPC && passed_by) {
			/* Those who were in the way may have gone. */
			from = 0;
			at = place_once(run, fd, window, &from, offset);
		}
		if (at == -EEXIST) {
			region_look_again();
			continue;
		}
		if ((at != -ENOMEM && at != -ENOSPC) || collected)
			return at == -EADDRINUSE ? -EEXIST : at;
		/* Memory of processes that have ended may still be there. */
		ask_to_collect();
		collected = true;
	}
}

long ranges_place(const struct window *window, uint64_t *offset)
{
	int error = 0;
	struct run_header *run = run_file(&error);
	long at;
	int fd;

	if (!run)
		return error;
	fd = region_open(O_RDWR);
	if (fd < 0)
		return fd;
	at = place_somewhere(run, fd, window, offset);
	call_close(fd);
	return at;
}

static bool nobody_has(struct run_header *run, uint32_t number, uint64_t offset)
{
	return atomic_load(&range_of(run, number)->offset) == (offset | RANGE_USED) &&
	       !holdings_any(run, number);
}

/* With the lock. */
static int give_back(struct run_header *run, uint32_t number, uint64_t offset)
{
	int failed, fd;

	if (!nobody_has(run, number, offset))
		return 0;
	fd = region_open(O_RDWR);
	if (fd < 0)
		return fd;
	failed = region_unmap(fd, offset, atomic_load(&range_of(run, number)->size));
	call_close(fd);
	if (!failed)
		atomic_store(&range_of(run, number)->offset, 0);
	return failed;
}

static void hint(struct run_header *run, uint32_t number)
{
	uint64_t place = atomic_fetch_add(&run->hints_put, 1);

	atomic_store(&run->hints[place % RUN_HINTS], number);
}

void ranges_let_go(uint32_t number)
{
	struct run_header *run = run_file_if_mapped();
	uint64_t offset = atomic_load(&range_of(run, number)->offset) & ~RANGE_FLAGS;
	sigset_t before;
	int failed;

	if (!holdings_drop(run, number) || !nobody_has(run, number, offset))
		return;
	if (atomic_load(&range_of(run, number)->size) < WORTH_WAITING_FOR) {
		hint(run, number);
		return;
	}
	failed = lock(run, &before);
	if (!failed) {
		failed = give_back(run, number, offset);
		unlock(run, &before);
	}
	if (failed)
		hint(run, number);
}

uint64_t ranges_bytes(struct run_header *run)
{
	uint64_t i, used = atomic_load(&run->ranges_used), sum = 0;

	for (i = 0; i < used; i++) {
		struct range *range = range_of(run, (uint32_t)i);

		if ((atomic_load(&range->offset) & RANGE_FLAGS) == RANGE_USED)
			sum += atomic_load(&range->size);
	}
	return sum;
}

uint64_t ranges_room_behind(uint32_t number, uint64_t end)
{
	struct range *range = range_of(run_file_if_mapped(), number);
	uint64_t offset = atomic_load(&range->offset);
	uint64_t last = (offset & ~RANGE_FLAGS) + atomic_load(&range->size);

	return offset & RANGE_SEGMENT && end < last ? last - end : 0;
}

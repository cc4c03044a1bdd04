/* SPDX-License-Identifier: MIT */
/*
 * segments.c - the table of segments, and their places in the region.
 *
 * Segments may grow, and programs map more of one than there is yet.  So each has more room
 * than memory.  They lie in the upper part of the region, down to a floor that moves, where
 * nothing else is put.
 */
#define _GNU_SOURCE
#include "segments.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

static struct segment *segment_at(struct run_header *run, uint64_t place)
{
	return (struct segment *)run_table(run, run->segments_at) + place;
}

int segments_enter(struct visit *visit)
{
	int failed = 0;

	visit->run = run_file(&failed);
	if (!visit->run)
		return failed;
	block_signals(&visit->mask);
	failed = run_file_lock(visit->run);
	if (failed)
		restore_signals(&visit->mask);
	return failed;
}

void segments_leave(struct visit *visit)
{
	run_file_unlock(visit->run);
	restore_signals(&visit->mask);
}

struct segment *segments_find(struct run_header *run, enum kind kind, uint64_t device, uint64_t id)
{
	uint64_t i, used = atomic_load(&run->segments_used);

	for (i = 0; i < used; i++) {
		struct segment *segment = segment_at(run, i);

		if (atomic_load_explicit(&segment->kind, memory_order_acquire) == (uint64_t)kind &&
		    segment->id == id && segment->device == device)
			return segment;
	}
	return NULL;
}

uint64_t segments_bytes(struct run_header *run)
{
	uint64_t i, used = atomic_load(&run->segments_used), sum = 0;

	for (i = 0; i < used; i++)
		if (atomic_load(&segment_at(run, i)->kind) != KIND_NONE)
			sum += atomic_load(&segment_at(run, i)->size);
	return sum;
}

struct segment *segments_of_range(struct run_header *run, uint32_t range)
{
	uint64_t i, used = atomic_load(&run->segments_used);

	for (i = 0; i < used; i++)
		if (atomic_load(&segment_at(run, i)->kind) != KIND_NONE &&
		    segment_at(run, i)->range == range)
			return segment_at(run, i);
	return NULL;
}

uint64_t segments_offset(struct run_header *run, const struct segment *segment)
{
	return atomic_load(&range_of(run, (uint32_t)segment->range)->offset) & ~RANGE_FLAGS;
}

uint64_t segments_room(struct run_header *run, const struct segment *segment)
{
	return atomic_load(&range_of(run, (uint32_t)segment->range)->size);
}

/* With the lock.  NULL and -errno in *failed. */
static struct segment *free_entry(struct run_header *run, int *failed)
{
	uint64_t i;

	for (i = 0; i < run->segments; i++) {
		*failed = run_file_extend(run->segments_at, sizeof(struct segment), i + 1,
					  &run->segments_there);
		if (*failed)
			return NULL;
		if (atomic_load(&segment_at(run, i)->kind) != KIND_NONE)
			continue;
		run_file_raise(&run->segments_used, i + 1);
		return segment_at(run, i);
	}
	*failed = -ENOSR;
	return NULL;
}

/* Whether [start, end) and the gaps around it touch a range of the run.  *below is then where
 * the lowest such range begins. */
static bool is_taken(struct run_header *run, uint64_t start, uint64_t end, uint64_t kind,
		     uint64_t *below)
{
	uint64_t i, used = atomic_load(&run->ranges_used);
	bool taken = false;

	for (i = 0; i < used; i++) {
		struct range *range = range_of(run, (uint32_t)i);
		uint64_t offset = atomic_load(&range->offset);
		uint64_t first = offset & ~RANGE_FLAGS;

		if (!offset || offset & RANGE_BLANK || (offset & RANGE_SEGMENT) != kind || first >= end + GAP ||
		    first + atomic_load(&range->size) + GAP <= start)
			continue;
		if (!taken || first < *below)
			*below = first;
		taken = true;
	}
	return taken;
}

static uint64_t lower(uint64_t from, uint64_t by)
{
	return from > by ? from - by : 0;
}

/* Lower the floor to there, if nothing else is above it. */
static bool lower_floor(struct run_header *run, uint64_t to)
{
	uint64_t before = atomic_load(&run->floor), unused;

	if (to / HUGE_PAGE >= before)
		return true;
	/* Whoever takes a range tells first where, and looks at the floor then. */
	atomic_store(&run->floor, to / HUGE_PAGE);
	if (!is_taken(run, to, before * HUGE_PAGE, 0, &unused))
		return true;
	atomic_store(&run->floor, before);
	return false;
}

/* The next place below `from` where nothing of the run or of others is. */
static bool find_below(struct run_header *run, int region, uint64_t from, uint64_t room,
		       uint64_t *offset)
{
	uint64_t start, below;
	int failed;

	for (; from >= room; from = lower(below, GAP)) {
		start = (from - room) / HUGE_PAGE * HUGE_PAGE;
		if (is_taken(run, start, start + room, RANGE_SEGMENT, &below))
			continue;
		failed = region_first_mapped(region, lower(start, GAP), start + room + GAP, &below);
		if (failed < 0)
			return false;
		if (failed)
			continue;
		*offset = start;
		return lower_floor(run, lower(start, GAP));
	}
	return false;
}

static bool find_place(struct run_header *run, int region, uint64_t room, uint64_t *offset)
{
	uint64_t next = atomic_load(&run->next_segment);

	if (find_below(run, region, next, room, offset) ||
	    find_below(run, region, run->region_size, room, offset)) {
		atomic_store(&run->next_segment, lower(*offset, GAP));
		return true;
	}
	return false;
}

static int take_room(struct run_header *run, int region, uint64_t least, uint64_t room,
		     uint32_t *range)
{
	uint64_t offset;

	for (room = round_up(room, HUGE_PAGE); room >= least; room /= 2) {
		room = round_up(room, HUGE_PAGE);
		if (find_place(run, region, room, &offset))
			return ranges_tell(run, offset, room, RANGE_SEGMENT, range);
		if (room == HUGE_PAGE)
			break;
	}
	return -ENOSPC;
}

int segments_add(const struct visit *visit, int region, const struct segment *wanted,
		 const struct demand *demand)
{
	struct run_header *run = visit->run;
	struct segment *segment;
	uint32_t range;
	int failed = 0;

	segment = free_entry(run, &failed);
	if (!segment)
		return failed;
	failed = take_room(run, region, demand->least, demand->room, &range);
	if (failed)
		return failed;
	segment->device = wanted->device;
	segment->id = wanted->id;
	segment->range = range;
	atomic_store(&segment->size, 0);
	/* Last, and before there is memory: a process that is killed leaves nothing unknown. */
	atomic_store_explicit(&segment->kind, atomic_load(&wanted->kind), memory_order_release);
	atomic_fetch_add(&run->segments_live, 1);
	if (demand->size)
		failed = region_map(region, segments_offset(run, segment), demand->size,
				    PROT_READ | PROT_WRITE, demand->flags);
	if (!failed) {
		atomic_store(&segment->size, demand->size);
		return 0;
	}
	atomic_store(&segment->kind, KIND_NONE);
	atomic_fetch_sub(&run->segments_live, 1);
	atomic_store(&range_of(run, range)->offset, 0);
	return failed;
}

/* Where the marks of a segment can be: eight places beside each other. */
#define PLACES 8

static _Atomic uint64_t *marks_for(struct run_header *run, uint64_t device, uint64_t id,
				   uint64_t *mark)
{
	/* An inode of tmpfs is never another file's, so that nothing has to be taken out. */
	*mark = (id * 0x9e3779b97f4a7c15 ^ device * 0xc2b2ae3d27d4eb4f) | 1;
	return (_Atomic uint64_t *)run_table(run, run->left_at) +
	       *mark / 2 % (run->left / PLACES) * PLACES;
}

bool segments_is_left_alone(struct run_header *run, uint64_t device, uint64_t id)
{
	_Atomic uint64_t *marks;
	uint64_t mark;
	int i;

	marks = marks_for(run, device, id, &mark);
	for (i = 0; i < PLACES; i++)
		if (atomic_load(&marks[i]) == mark)
			return true;
	return false;
}

void segments_leave_alone(struct run_header *run, uint64_t device, uint64_t id)
{
	_Atomic uint64_t *marks;
	uint64_t mark;
	int i;

	if (segments_is_left_alone(run, device, id))
		return;
	marks = marks_for(run, device, id, &mark);
	for (i = PLACES - 1; i > 0; i--)
		atomic_store(&marks[i], atomic_load(&marks[i - 1]));
	atomic_store(&marks[0], mark);
}

/* SPDX-License-Identifier: MIT */
/*
 * windows.c - which addresses of this process are windows on the region.
 *
 * A table without locks, so that a signal handler and a forked child find it usable
 * whatever they have interrupted.  A child's copy is right, because it inherits the windows
 * too; exec starts both anew.  An entry whose start is an odd number belongs to the thread
 * that made it so: a window that is about to be or about to go.  It still names its range.  A child
 * that is forked meanwhile keeps it so for ever, and so never gives up a range that it may have.
 */
#include "preload.h"

#include <stdatomic.h>
#include <sys/mman.h>

/* Entries come in blocks; all but the first block are made when they are needed, and stay. */
#define ENTRIES 1024

#define FREE 0
#define BUSY 1

struct entry {
	_Atomic uintptr_t start; /* FREE, odd, or an address */
	_Atomic uintptr_t begin; /* the address, also while start is odd */
	_Atomic uintptr_t end;
	_Atomic uint64_t offset;
	_Atomic(void *) segment;
	_Atomic uint32_t range;
};

struct block {
	struct entry entries[ENTRIES];
	/* No entry at or above was ever used: what most calls of most programs look at. */
	atomic_uint used;
	_Atomic(struct block *) next;
};

static struct block first;

bool windows_any(void)
{
	return atomic_load_explicit(&first.used, memory_order_acquire);
}

static struct block *next_of(struct block *block)
{
	return atomic_load_explicit(&block->next, memory_order_acquire);
}

/* The entry after this one, the first one for NULL; NULL at the end of all that were used.
 * *block goes along with it. */
static struct entry *step(struct block **block, struct entry *entry)
{
	if (!entry) {
		*block = &first;
		entry = first.entries;
	} else
		entry++;
	while (entry >= (*block)->entries + atomic_load_explicit(&(*block)->used, memory_order_acquire)) {
		*block = next_of(*block);
		if (!*block)
			return NULL;
		entry = (*block)->entries;
	}
	return entry;
}

static void raise_used(struct block *block, unsigned int count)
{
	unsigned int now = atomic_load(&block->used);

	while (now < count && !atomic_compare_exchange_weak(&block->used, &now, count))
		;
}

static struct block *append(struct block *last)
{
	struct block *expected = NULL;
	long at = call_mmap(NULL, sizeof(*last), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (is_error(at))
		return next_of(last);
	if (atomic_compare_exchange_strong(&last->next, &expected, (struct block *)at))
		return (struct block *)at;
	call_munmap((void *)at, sizeof(*last));
	return expected;
}

struct entry *windows_reserve(uint32_t range)
{
	struct block *block, *next;
	unsigned int i;

	for (block = &first; block; block = next) {
		for (i = 0; i < ENTRIES; i++) {
			uintptr_t expected = FREE;

			if (atomic_load_explicit(&block->entries[i].start, memory_order_relaxed) != FREE ||
			    !atomic_compare_exchange_strong(&block->entries[i].start, &expected, BUSY))
				continue;
			atomic_store(&block->entries[i].range, range);
			raise_used(block, i + 1);
			return &block->entries[i];
		}
		next = next_of(block);
		if (!next)
			next = append(block);
	}
	return NULL;
}

void windows_set(struct entry *entry, const struct piece *piece)
{
	atomic_store(&entry->begin, piece->start);
	atomic_store(&entry->end, piece->end);
	atomic_store(&entry->offset, piece->offset);
	atomic_store(&entry->segment, piece->segment);
	atomic_store(&entry->range, piece->range);
	atomic_store(&entry->start, piece->start);
}

void windows_release(struct entry *entry)
{
	atomic_store(&entry->start, FREE);
}

static void load(const struct entry *entry, struct piece *piece)
{
	piece->start = atomic_load(&entry->begin);
	piece->end = atomic_load(&entry->end);
	piece->offset = atomic_load(&entry->offset);
	piece->segment = atomic_load(&entry->segment);
	piece->range = atomic_load(&entry->range);
}

/* Whether it is a window, and its fields belong together. */
static bool load_window(const struct entry *entry, struct piece *piece)
{
	uintptr_t start = atomic_load(&entry->start);

	if (start == FREE || start & 1)
		return false;
	load(entry, piece);
	return piece->start == start && atomic_load(&entry->start) == start;
}

bool windows_find(uintptr_t address, struct piece *found)
{
	struct entry *entry = NULL;
	struct block *block;

	while ((entry = step(&block, entry)))
		if (load_window(entry, found) && found->start <= address && address < found->end)
			return true;
	return false;
}

bool windows_have(uint32_t range)
{
	struct entry *entry = NULL;
	struct block *block;

	while ((entry = step(&block, entry)))
		if (atomic_load(&entry->start) != FREE && atomic_load(&entry->range) == range)
			return true;
	return false;
}

void windows_each(void (*visit)(uint32_t range))
{
	struct entry *entry = NULL;
	struct block *block;

	while ((entry = step(&block, entry)))
		if (atomic_load(&entry->start) != FREE)
			visit(atomic_load(&entry->range));
}

/* A window of its own for what is left of `whole` on one side of a cut. */
static bool keep(const struct piece *whole, uintptr_t start, uintptr_t end, void *segment)
{
	struct piece rest = {
		.start = start,
		.end = end,
		.offset = whole->offset + (start - whole->start),
		.segment = segment,
		.range = whole->range,
	};
	struct entry *entry;

	if (start >= end)
		return true;
	entry = windows_reserve(whole->range);
	if (!entry)
		return false;
	windows_set(entry, &rest);
	return true;
}

/* Leave in a marked entry what is between start and end; the rest becomes windows of its own,
 * one of which detaches the System V segment when it goes. */
static bool narrow(struct entry *entry, uintptr_t start, uintptr_t end)
{
	struct piece whole;
	void *segment;

	load(entry, &whole);
	segment = whole.segment;
	if (whole.start >= start && whole.end <= end)
		return true;
	if (!keep(&whole, whole.start, start, segment))
		return false;
	if (whole.start < start)
		segment = NULL;
	if (!keep(&whole, end, whole.end, segment))
		return false;
	atomic_store(&entry->segment, NULL);
	if (whole.start < start) {
		atomic_store(&entry->begin, start);
		atomic_store(&entry->offset, whole.offset + (start - whole.start));
	}
	if (whole.end > end)
		atomic_store(&entry->end, end);
	return true;
}

bool windows_cut(uintptr_t start, uintptr_t end, uintptr_t mark)
{
	struct entry *entry = NULL;
	struct block *block;
	struct piece piece;

	while ((entry = step(&block, entry))) {
		uintptr_t expected;

		if (!load_window(entry, &piece) || piece.start >= end || piece.end <= start)
			continue;
		expected = piece.start;
		if (!atomic_compare_exchange_strong(&entry->start, &expected, mark))
			continue;
		if (narrow(entry, start, end))
			continue;
		windows_restore(mark);
		return false;
	}
	return true;
}

bool windows_take_cut(uintptr_t mark, struct piece *cut)
{
	struct entry *entry = NULL;
	struct block *block;

	while ((entry = step(&block, entry)))
		if (atomic_load(&entry->start) == mark) {
			load(entry, cut);
			atomic_store(&entry->start, FREE);
			return true;
		}
	return false;
}

void windows_restore(uintptr_t mark)
{
	struct entry *entry = NULL;
	struct block *block;

	while ((entry = step(&block, entry)))
		if (atomic_load(&entry->start) == mark)
			atomic_store(&entry->start, atomic_load(&entry->begin));
}

void windows_shift(uintptr_t mark, uintptr_t by, uintptr_t old_end, size_t growth)
{
	struct entry *entry = NULL;
	struct block *block;
	uintptr_t end;

	while ((entry = step(&block, entry))) {
		if (atomic_load(&entry->start) != mark)
			continue;
		end = atomic_load(&entry->end);
		atomic_store(&entry->end, end + by + (end == old_end ? growth : 0));
		atomic_store(&entry->begin, atomic_load(&entry->begin) + by);
		atomic_store(&entry->start, atomic_load(&entry->begin));
	}
}

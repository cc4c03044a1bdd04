/* SPDX-License-Identifier: MIT */
/*
 * windows.c - which addresses of this process are windows on the region, and their end.
 *
 * A fixed table without locks, so that a signal handler and a forked child find it usable
 * whatever they have interrupted.  A child's copy is right, because it inherits the windows
 * too; exec starts both anew.  An entry whose start is BUSY belongs to the thread that made
 * it so; a child forked meanwhile loses that one entry.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 1024

/* So many windows in one munmap are told one by one. */
#define CUTS 8

#define FREE 0
#define BUSY 1

struct entry {
	_Atomic uintptr_t start;
	_Atomic uintptr_t end;
	_Atomic uint64_t offset;
	_Atomic(void *) segment;
};

static struct entry table[ENTRIES];
/* No entry at or above was ever used: what most calls of most programs look at. */
static atomic_uint used;

bool windows_any(void)
{
	return atomic_load_explicit(&used, memory_order_acquire);
}

static struct entry *end_of_table(void)
{
	return table + atomic_load_explicit(&used, memory_order_acquire);
}

static void raise_used(unsigned int count)
{
	unsigned int now = atomic_load(&used);

	while (now < count && !atomic_compare_exchange_weak(&used, &now, count))
		;
}

static void store(struct entry *entry, const struct piece *piece)
{
	atomic_store(&entry->end, piece->end);
	atomic_store(&entry->offset, piece->offset);
	atomic_store(&entry->segment, piece->segment);
	atomic_store(&entry->start, piece->start);
}

static bool load(struct entry *entry, struct piece *piece)
{
	piece->start = atomic_load(&entry->start);
	piece->end = atomic_load(&entry->end);
	piece->offset = atomic_load(&entry->offset);
	piece->segment = atomic_load(&entry->segment);
	/* The fields belong together if the start has not changed meanwhile. */
	return piece->start > BUSY && atomic_load(&entry->start) == piece->start;
}

bool windows_add(const struct piece *piece)
{
	struct entry *entry;

	for (entry = table; entry < table + ENTRIES; entry++) {
		uintptr_t expected = FREE;

		if (!atomic_compare_exchange_strong(&entry->start, &expected, BUSY))
			continue;
		raise_used((unsigned int)(entry - table) + 1);
		store(entry, piece);
		return true;
	}
	return false;
}

bool windows_find(uintptr_t address, struct piece *found)
{
	struct entry *entry, *end = end_of_table();

	for (entry = table; entry < end; entry++)
		if (load(entry, found) && found->start <= address && address < found->end)
			return true;
	return false;
}

/* Leave of the window what is outside of start to end. */
static void keep_rest(struct entry *entry, const struct piece *whole, const struct piece *cut)
{
	struct piece left = *whole, right = *whole;

	left.end = cut->start;
	right.start = cut->end;
	right.offset += cut->end - whole->start;
	if (right.start < right.end) {
		/* Both parts would detach the segment. */
		if (left.start < left.end)
			right.segment = NULL;
		windows_add(&right);
	}
	if (left.start < left.end)
		store(entry, &left);
	else
		atomic_store(&entry->start, FREE);
}

static bool cut_one(uintptr_t start, uintptr_t end, struct piece *cut)
{
	struct entry *entry, *last = end_of_table();
	struct piece whole;

	for (entry = table; entry < last; entry++) {
		uintptr_t expected;

		if (!load(entry, &whole) || whole.start >= end || whole.end <= start)
			continue;
		expected = whole.start;
		if (!atomic_compare_exchange_strong(&entry->start, &expected, BUSY))
			continue;
		*cut = whole;
		if (cut->start < start) {
			cut->offset += start - cut->start;
			cut->start = start;
		}
		if (cut->end > end)
			cut->end = end;
		if (cut->start != whole.start || cut->end != whole.end)
			cut->segment = NULL;
		keep_rest(entry, &whole, cut);
		return true;
	}
	return false;
}

/* Take the windows at these addresses out of the table; how many, the first CUTS of them
 * in `cuts`. */
static unsigned int cut_windows(uintptr_t start, uintptr_t end, struct piece *cuts)
{
	struct piece cut;
	unsigned int count;

	for (count = 0; cut_one(start, end, &cut); count++)
		if (count < CUTS)
			cuts[count] = cut;
	return count;
}

static void tell_cuts(const struct piece *cuts, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count && i < CUTS; i++) {
		if (cuts[i].segment)
			syscall(SYS_shmdt, cuts[i].segment);
		tell_collector(TELL_GONE, cuts[i].offset);
	}
	if (count > CUTS)
		tell_collector(TELL_COLLECT, 0);
}

void windows_forget(uintptr_t start, uintptr_t end)
{
	struct piece cuts[CUTS];

	tell_cuts(cuts, cut_windows(start, end, cuts));
}

long windows_unmap(uintptr_t start, size_t size)
{
	struct piece cuts[CUTS];
	unsigned int i, count;
	long result;

	/* First the table: as soon as the addresses are free another thread may get them. */
	count = cut_windows(start, start + size, cuts);
	result = call_munmap((void *)start, size);
	if (!result)
		tell_cuts(cuts, count);
	else
		for (i = 0; i < count && i < CUTS; i++)
			windows_add(&cuts[i]);
	return result;
}

void *windows_take(uintptr_t start, uintptr_t end)
{
	struct piece cuts[CUTS];

	return cut_windows(start, end, cuts) == 1 ? cuts[0].segment : NULL;
}

/* SPDX-License-Identifier: MIT */
/*
 * remap.c - mremap(2): windows that move, shrink, grow or are copied.
 *
 * The table is changed before the kernel's call, because addresses that it sets free may be
 * another thread's at once, and put right after it.
 */
#define _GNU_SOURCE
#include "ranges.h"

#include <errno.h>
#include <sys/mman.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* Three stretches of addresses; each has a mark of its own, an odd number on the stack. */
struct change {
	char stays[2];  /* what the window keeps */
	char goes[2];   /* what is cut off its end */
	char target[2]; /* what lies where it is moved to */
};

static uintptr_t mark(const char *of)
{
	return (uintptr_t)of | 1;
}

static void restore(const struct change *change)
{
	windows_restore(mark(change->stays));
	windows_restore(mark(change->goes));
	windows_restore(mark(change->target));
}

static bool cut(const struct change *change, uintptr_t old, size_t size, size_t new_size,
		uintptr_t target)
{
	size_t kept = new_size < size ? new_size : size;

	/* The end first: what is left of a window keeps its System V segment. */
	if (windows_cut(old + kept, old + size, mark(change->goes)) &&
	    windows_cut(old, old + kept, mark(change->stays)) &&
	    (!target || windows_cut(target, target + new_size, mark(change->target))))
		return true;
	restore(change);
	return false;
}

static long move(uintptr_t old, size_t size, size_t new_size, int flags, void *target)
{
	struct change change = {{0}, {0}, {0}};
	long result;

	if (!cut(&change, old, size, new_size, (uintptr_t)target))
		return -ENOMEM;
	result = call_mremap((void *)old, size, new_size, flags, target);
	if (is_error(result)) {
		restore(&change);
		return result;
	}
	windows_shift(mark(change.stays), (uintptr_t)result - old, old + size,
		      new_size > size ? new_size - size : 0);
	detach_marked(mark(change.goes));
	detach_marked(mark(change.target));
	return result;
}

/* The old window stays, and there is a second one on the same bytes. */
static long copy(const struct piece *from, uintptr_t old, size_t size, size_t new_size, int flags,
		 void *target)
{
	struct entry *entry = windows_reserve(from->range);
	struct piece copied = *from;
	long result;

	if (!entry)
		return -ENOMEM;
	result = call_mremap((void *)old, size, new_size, flags, target);
	if (is_error(result)) {
		windows_release(entry);
		return result;
	}
	if (flags & MREMAP_FIXED)
		detach_forget((uintptr_t)target, (uintptr_t)target + new_size);
	copied.start = (uintptr_t)result;
	copied.end = copied.start + new_size;
	copied.offset += old - from->start;
	copied.segment = NULL;
	windows_set(entry, &copied);
	return result;
}

long remap_windows(uintptr_t old, size_t size, size_t new_size, int flags, void *target)
{
	size_t page = settings()->page;
	struct piece window;
	bool ours = windows_find(old, &window);

	/* The kernel refuses what this would overflow for. */
	if (old % page || size > SIZE_MAX / 2 || new_size > SIZE_MAX / 2)
		return call_mremap((void *)old, size, new_size, flags, target);
	size = round_up(size, page);
	new_size = round_up(new_size, page);
	if (ours && new_size > window.end - old + ranges_room_behind(window.range, window.offset +
								     (window.end - window.start)))
		return -ENOMEM;
	if (ours && (!size || flags & MREMAP_DONTUNMAP))
		return copy(&window, old, size, new_size, flags, target);
	return move(old, size, new_size, flags, target);
}

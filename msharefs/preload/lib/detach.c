/* SPDX-License-Identifier: MIT */
/*
 * detach.c - the end of windows: munmap(2), and whatever else takes their addresses.
 */
#define _GNU_SOURCE
#include "ranges.h"

#include <sys/syscall.h>
#include <unistd.h>

void detach_marked(uintptr_t mark)
{
	struct piece piece;

	while (windows_take_cut(mark, &piece)) {
		if (piece.segment)
			syscall(SYS_shmdt, piece.segment);
		ranges_let_go(piece.range);
	}
}

void detach_forget(uintptr_t start, uintptr_t end)
{
	char here;
	uintptr_t mark = (uintptr_t)&here | 1;

	/* Without memory for what is left of a window all of it stays in the table: its range is
	 * given back too late. */
	if (windows_any() && windows_cut(start, end, mark))
		detach_marked(mark);
}

long detach_unmap(uintptr_t start, size_t size)
{
	char here;
	uintptr_t mark = (uintptr_t)&here | 1;
	long result;

	/* First the table: as soon as the addresses are free another thread may get them. */
	if (!windows_cut(start, start + size, mark))
		return call_munmap((void *)start, size);
	result = call_munmap((void *)start, size);
	if (result)
		windows_restore(mark);
	else
		detach_marked(mark);
	return result;
}

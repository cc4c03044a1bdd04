/* SPDX-License-Identifier: MIT */
/*
 * punch.c - madvise(MADV_REMOVE): memory of windows goes, and comes again as zeros.
 */
#define _GNU_SOURCE
#include "posix.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

static int punch_range(uint64_t offset, uint64_t size)
{
	int fd = region_open(O_RDWR);
	int failed;

	if (fd < 0)
		return fd;
	failed = region_map_anew(fd, offset, size, MAP_NORESERVE);
	call_close(fd);
	return failed;
}

/* A window may be longer than its segment, which has no memory beyond its end. */
static int punch_segment(uint32_t range, uint64_t offset, uint64_t size)
{
	struct segment *segment;
	struct visit visit;
	uint64_t start;
	int failed = segments_enter(&visit);

	if (failed)
		return failed;
	segment = segments_of_range(visit.run, range);
	if (segment) {
		start = offset - segments_offset(visit.run, segment);
		failed = memory_wipe(&visit, segment, start, start + size);
	}
	segments_leave(&visit);
	return failed;
}

static int punch(const struct piece *piece, uintptr_t start, uintptr_t end)
{
	struct range *range = range_of(run_file_if_mapped(), piece->range);
	uint64_t offset = piece->offset + (start - piece->start);

	if (atomic_load(&range->offset) & RANGE_SEGMENT)
		return punch_segment(piece->range, offset, end - start);
	return punch_range(offset, end - start);
}

int punch_windows(uintptr_t start, size_t size)
{
	uintptr_t end = start + round_up(size, settings()->page);
	struct piece piece;
	/* A mount refuses it as such, after the kernel has looked at the rights of the window. */
	int failed = (int)call_madvise((void *)start, size, MADV_REMOVE);

	if (failed != -EOPNOTSUPP)
		return failed;
	failed = 0;
	for (; start < end && !failed; start = piece.end) {
		if (!windows_find(start, &piece))
			return (int)call_madvise((void *)start, end - start, MADV_REMOVE);
		failed = punch(&piece, start, piece.end < end ? piece.end : end);
	}
	return failed;
}

/* SPDX-License-Identifier: MIT */
/*
 * posix_map.c - mmap(2) of a file of /dev/shm: its bytes in the region, if they are there.
 */
#define _GNU_SOURCE
#include "posix.h"

#include "holdings.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

/* What the kernel refuses it refuses for this file, not for the region. */
static bool kernel_refuses(int fd, size_t size, int prot, int flags, uint64_t offset)
{
	long access = call_fcntl(fd, F_GETFL, NULL) & O_ACCMODE;

	return !size || access == O_WRONLY || offset % settings()->page ||
	       size > INT64_MAX - settings()->page || offset > INT64_MAX - settings()->page - size ||
	       (access == O_RDONLY && prot & PROT_WRITE && (flags & MAP_TYPE) != MAP_PRIVATE);
}

/* A descriptor for reading gives windows that no mprotect makes writable. */
static long map_region(int fd, void *at, size_t size, int prot, int flags, uint64_t offset)
{
	bool reading = (call_fcntl(fd, F_GETFL, NULL) & O_ACCMODE) == O_RDONLY;
	int region = region_open(reading ? O_RDONLY : O_RDWR);
	long result;

	if (region < 0)
		return region;
	result = region_window(at, size, prot, flags, region, offset);
	call_close(region);
	return result;
}

/* MAP_POPULATE ends where the segment ends: beyond it the mount may have pages for a while, which
 * others were promised. */
static void populate(const struct segment *segment, long at, size_t size, int prot, int flags,
		     uint64_t offset)
{
	uint64_t there = atomic_load(&segment->size);
	bool writes = prot & PROT_WRITE && (flags & MAP_TYPE) != MAP_PRIVATE;

	if (!(flags & MAP_POPULATE) || offset >= there)
		return;
	if (size > there - offset)
		size = there - offset;
	call_madvise((void *)at, size, writes ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
}

static long attach(int fd, const struct segment *segment, void *at, size_t size, int prot,
		   int flags, uint64_t offset)
{
	int error = 0;
	struct run_header *run = run_file(&error);
	struct piece piece = {
		.offset = segments_offset(run, segment) + offset,
		.range = (uint32_t)segment->range,
	};
	struct entry *entry;
	long result;

	if (offset + size > segments_room(run, segment) + GAP) {
		say_no_room(POSIX_WHAT, offset + size, segments_room(run, segment));
		return -ENOMEM;
	}
	entry = windows_reserve(piece.range);
	if (!entry)
		return -ENOMEM;
	result = holdings_add(run, piece.range);
	if (!result && !posix_is_still_open(fd, segment))
		result = -EBADF;
	if (!result)
		result = map_region(fd, at, size, prot, flags & ~MAP_POPULATE, piece.offset);
	if (is_error(result)) {
		windows_release(entry);
		ranges_let_go(piece.range);
		return result;
	}
	piece.start = (uintptr_t)result;
	piece.end = piece.start + round_up(size, settings()->page);
	if (flags & MAP_FIXED)
		detach_forget(piece.start, piece.end);
	windows_set(entry, &piece);
	populate(segment, result, size, prot, flags, offset);
	return result;
}

bool shm_mmap(void *at, size_t size, int prot, int flags, int fd, uint64_t offset, long *result)
{
	struct segment *segment;
	struct stat status;

	if (!posix_is_file(fd, &status) || kernel_refuses(fd, size, prot, flags, offset))
		return false;
	segment = posix_find_or_place(fd, &status, round_up(offset + size, settings()->page));
	if (segment)
		*result = attach(fd, segment, at, size, prot, flags, offset);
	return segment;
}

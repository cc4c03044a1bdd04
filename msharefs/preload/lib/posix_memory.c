/* SPDX-License-Identifier: MIT */
/*
 * posix_memory.c - the memory of a POSIX segment: as much as its file is long.
 *
 * A process may be killed between two steps.  Whatever it leaves is put right by the next one
 * that comes here: memory beyond the size that the entry tells is replaced by zeros when the
 * segment grows.
 */
#define _GNU_SOURCE
#include "posix.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

int memory_view(struct run_header *run, const struct segment *segment, uint64_t start, size_t size,
		struct view *view)
{
	uint64_t offset = segments_offset(run, segment) + start;
	uint64_t skipped = offset % settings()->page;
	int fd = region_open(O_RDWR);
	long at;

	if (fd < 0)
		return fd;
	at = region_window(NULL, size + skipped, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			   offset - skipped);
	call_close(fd);
	if (is_error(at))
		return (int)at;
	view->at = (void *)at;
	view->size = size + skipped;
	view->bytes = (char *)at + skipped;
	return 0;
}

void memory_end_view(const struct view *view)
{
	call_munmap(view->at, view->size);
}

static int fill_with_zeros(const struct visit *visit, struct segment *segment, uint64_t start,
			   uint64_t end)
{
	struct view view;
	int failed;

	if (start >= end)
		return 0;
	failed = memory_view(visit->run, segment, start, end - start, &view);
	if (failed)
		return failed;
	memset(view.bytes, 0, end - start);
	memory_end_view(&view);
	return 0;
}

static int shrink(const struct visit *visit, struct segment *segment, int fd, uint64_t pages)
{
	uint64_t before = atomic_load(&segment->size);

	atomic_store(&segment->size, pages);
	return region_unmap(fd, segments_offset(visit->run, segment) + pages, before - pages);
}

static int grow(const struct visit *visit, struct segment *segment, int fd, uint64_t pages,
		uint32_t flags)
{
	uint64_t before = atomic_load(&segment->size);
	uint64_t offset = segments_offset(visit->run, segment) + before;
	int failed;

	if (pages > segments_room(visit->run, segment))
		return -ENOMEM;
	failed = region_map(fd, offset, pages - before, PROT_READ | PROT_WRITE, flags);
	if (failed == -EEXIST)
		failed = region_map_anew(fd, offset, pages - before, flags);
	if (!failed)
		atomic_store(&segment->size, pages);
	return failed;
}

static int fit(const struct visit *visit, struct segment *segment, uint64_t size, uint32_t flags)
{
	uint64_t pages = round_up(size, settings()->page);
	uint64_t before = atomic_load(&segment->size);
	int fd, failed;

	if (pages == before)
		return 0;
	fd = region_open(O_RDWR);
	if (fd < 0)
		return fd;
	failed = pages < before ? shrink(visit, segment, fd, pages)
				: grow(visit, segment, fd, pages, flags);
	call_close(fd);
	return failed;
}

int memory_fit(const struct visit *visit, struct segment *segment, uint64_t size)
{
	return fit(visit, segment, size, 0);
}

int memory_fit_unreserved(const struct visit *visit, struct segment *segment, uint64_t size)
{
	return fit(visit, segment, size, MAP_NORESERVE);
}

int memory_cut(const struct visit *visit, struct segment *segment, uint64_t size)
{
	int failed = fit(visit, segment, size, 0);

	/* The kernel does so as well, so that they are zeros when the segment grows again. */
	return failed ? failed : fill_with_zeros(visit, segment, size, atomic_load(&segment->size));
}

/* Whole pages are given back and come again as zeros when they are touched. */
static int renew(const struct visit *visit, struct segment *segment, uint64_t start, uint64_t end)
{
	int fd = region_open(O_RDWR);
	int failed;

	if (fd < 0)
		return fd;
	failed = region_map_anew(fd, segments_offset(visit->run, segment) + start, end - start,
				 MAP_NORESERVE);
	call_close(fd);
	return failed;
}

int memory_wipe(const struct visit *visit, struct segment *segment, uint64_t start, uint64_t end)
{
	uint64_t page = settings()->page;
	uint64_t size = atomic_load(&segment->size);
	uint64_t first = round_up(start, page), last;
	int failed;

	if (end > size)
		end = size;
	last = end / page * page;
	if (start >= end)
		return 0;
	if (first >= last)
		return fill_with_zeros(visit, segment, start, end);
	failed = renew(visit, segment, first, last);
	if (!failed)
		failed = fill_with_zeros(visit, segment, start, first);
	if (!failed)
		failed = fill_with_zeros(visit, segment, last, end);
	return failed;
}

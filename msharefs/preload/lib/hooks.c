/* SPDX-License-Identifier: MIT */
/*
 * hooks.c - mmap, munmap, mremap and madvise as the program calls them.
 *
 * Large shared anonymous mappings go to the region; every other call goes to the kernel as
 * it is.  What cannot be had from the region is had from the kernel, with a line on stderr.
 */
#define _GNU_SOURCE
#include "ranges.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>


#define WHAT "shared anonymous memory"

/* What mmap(2) is given for the window.  MAP_FIXED, MAP_POPULATE and MAP_LOCKED follow when
 * the memory is there. */
#define PASSED_ON (MAP_FIXED_NOREPLACE | MAP_32BIT | MAP_STACK | MAP_NORESERVE)

static bool huge_pages_can_do(int flags)
{
	int shift = (flags >> MAP_HUGE_SHIFT) & MAP_HUGE_MASK;

	/* Without a size it is the system's default one, which is 2 MiB nearly everywhere. */
	return !(flags & MAP_HUGETLB) || !shift || ((uint64_t)1 << shift) == HUGE_PAGE;
}

static bool wanted(const struct settings *run, size_t size, int flags, uint64_t offset)
{
	return size >= run->min_size && size < SIZE_MAX / 4 &&
	       (flags & (MAP_TYPE | MAP_ANONYMOUS)) == (MAP_SHARED | MAP_ANONYMOUS) &&
	       !(flags & MAP_GROWSDOWN) && !(offset % run->page) && huge_pages_can_do(flags);
}

/* What mmap(2) does after it has mapped. */
static long finish(void *at, const struct window *window, int flags)
{
	int before = errno;
	int advice = window->prot & PROT_WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
	long result = 0;

	if (flags & MAP_LOCKED)
		result = syscall(SYS_mlock, at, window->size) ? -errno : 0;
	else if (flags & MAP_POPULATE)
		/* What cannot be populated now comes at first touch. */
		syscall(SYS_madvise, at, window->size, advice);
	errno = before;
	return result;
}

/* The window is made elsewhere and moved there, so that what is at a fixed address stays if
 * there is no memory. */
static long move_to(uintptr_t at, size_t size, void *target)
{
	long moved = remap_windows(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, target);

	if (is_error(moved))
		detach_unmap(at, size);
	return moved;
}

/* The address, or -errno. */
static long in_region(void *at, size_t size, int prot, int flags)
{
	const struct settings *run = settings();
	bool fixed = flags & MAP_FIXED && !(flags & MAP_FIXED_NOREPLACE);
	struct window window = {
		.hint = fixed ? NULL : at,
		.size = round_up(size, flags & MAP_HUGETLB ? HUGE_PAGE : run->page),
		.prot = prot,
		.flags = MAP_SHARED | (flags & PASSED_ON),
		.create = (uint32_t)flags & MAP_NORESERVE,
	};
	uint64_t offset;
	long address, result;

	if (flags & MAP_HUGETLB)
		window.create |= MAP_HUGETLB | MAP_HUGE_2MB;
	address = ranges_place(&window, &offset);
	if (!is_error(address) && fixed)
		address = move_to((uintptr_t)address, window.size, at);
	if (is_error(address))
		return address;
	result = finish((void *)address, &window, flags);
	if (result) {
		detach_unmap((uintptr_t)address, window.size);
		return result;
	}
	tell_placed(WHAT, window.size, offset);
	return address;
}

static long from_kernel(void *at, size_t size, int prot, int flags, int fd, uint64_t offset)
{
	long result = call_mmap(at, size, prot, flags, fd, offset);

	if (flags & MAP_FIXED && !is_error(result))
		detach_forget((uintptr_t)at, (uintptr_t)at + size);
	return result;
}

HOOK void *mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
	const struct settings *run = settings();
	long result, refusal = 0;

	if (!run)
		return (void *)answer(call_mmap(at, size, prot, flags, fd, (uint64_t)offset));
	if (run->shm && !(flags & MAP_ANONYMOUS) &&
	    shm_mmap(at, size, prot, flags, fd, (uint64_t)offset, &result))
		return (void *)answer(result);
	if (wanted(run, size, flags, (uint64_t)offset)) {
		refusal = in_region(at, size, prot, flags);
		if (!is_error(refusal))
			return (void *)refusal;
	}
	result = from_kernel(at, size, prot, flags, fd, (uint64_t)offset);
	/* What the kernel refuses too is nowhere, and the program knows. */
	if (refusal && !is_error(result))
		left_outside(WHAT, size, (int)-refusal);
	return (void *)answer(result);
}

HOOK void *mmap64(void *at, size_t size, int prot, int flags, int fd, off64_t offset)
	__attribute__((alias("mmap")));

HOOK int munmap(void *at, size_t size)
{
	const struct settings *run = settings();
	uintptr_t start = (uintptr_t)at;

	if (!run || !windows_any() || start % run->page || size > SIZE_MAX - start - run->page)
		return (int)answer(call_munmap(at, size));
	return (int)answer(detach_unmap(start, round_up(size, run->page)));
}

HOOK void *mremap(void *old, size_t size, size_t new_size, int flags, ...)
{
	void *target = NULL;

	if (flags & MREMAP_FIXED) {
		va_list rest;

		va_start(rest, flags);
		target = va_arg(rest, void *);
		va_end(rest);
	}
	if (!settings() || !windows_any())
		return (void *)answer(call_mremap(old, size, new_size, flags, target));
	return (void *)answer(remap_windows((uintptr_t)old, size, new_size, flags, target));
}

HOOK int madvise(void *at, size_t size, int advice)
{
	uintptr_t start = (uintptr_t)at;
	struct piece window;

	if (advice == MADV_REMOVE && settings() && !(start % settings()->page) &&
	    size < SIZE_MAX / 2 && windows_find(start, &window))
		return (int)answer(punch_windows(start, size));
	return (int)answer(call_madvise(at, size, advice));
}

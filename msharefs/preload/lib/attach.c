/* SPDX-License-Identifier: MIT */
/*
 * attach.c - windows on the region: where they go, and what is mapped there.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ADVICE "user.msharefs.advice"

/* The advice that the mount has for large windows, which first touches read far ahead with; 0 for
 * none.  Asked once: all windows are of one mount. */
static int mount_advice(int fd)
{
	static atomic_int known = -1;
	int before = errno, advice = atomic_load(&known);
	char text[16] = "";

	if (advice >= 0)
		return advice;
	advice = 0;
	if (syscall(SYS_fgetxattr, fd, ADVICE, text, sizeof(text) - 1) > 0)
		for (const char *at = text; *at >= '0' && *at <= '9'; at++)
			advice = advice * 10 + (*at - '0');
	errno = before;
	atomic_store(&known, advice);
	return advice;
}

/* The open region, and what is mapped for it: region_pages(). */
struct source {
	int fd;
	int pages;
};

static int begin(struct source *source, int fd)
{
	source->fd = fd;
	source->pages = region_pages(fd);
	return source->pages < 0 ? source->pages : 0;
}

static void end(const struct source *source)
{
	if (source->pages != source->fd)
		call_close(source->pages);
}

static long map_pages(void *at, size_t size, int prot, int flags, const struct source *source,
		      uint64_t offset)
{
	long window = call_mmap(at, size, prot, flags, source->pages, offset);

	/* Of what is for reading the kernel may make huge pages of its own, which go again, with
	 * all pages of the file, when somebody opens it for writing. */
	if (!is_error(window) && prot & PROT_WRITE && (flags & MAP_TYPE) == MAP_SHARED &&
	    size >= HUGE_PAGE && source->pages == source->fd && mount_advice(source->fd))
		call_madvise((void *)window, size, mount_advice(source->fd));
	return window;
}

long region_window(void *at, size_t size, int prot, int flags, int fd, uint64_t offset)
{
	struct source source;
	long window = begin(&source, fd);

	if (window)
		return window;
	window = map_pages(at, size, prot, flags, &source, offset);
	end(&source);
	return window;
}

static long attach_at(void *at, const struct source *source, const struct window *window, int more,
		      uint64_t offset)
{
	return map_pages(at, window->size, window->prot, window->flags | more, source, offset);
}

/* Where the program would like it, if that is free.  Left to itself the kernel would rather
 * have a file in huge pages than at a hint. */
static long attach_at_hint(const struct source *source, const struct window *window, uint64_t offset)
{
	uintptr_t hint = round_up((uintptr_t)window->hint, settings()->page);

	return attach_at((void *)hint, source, window, MAP_FIXED_NOREPLACE, offset);
}

/* Attach so that address and offset are the same place in a huge page; else the range would
 * take small entries, as one that is smaller than such a page does anyway.  The kernel does so by
 * itself nearly always. */
static long attach_aligned(const struct source *source, const struct window *window, uint64_t offset)
{
	size_t room = window->size + HUGE_PAGE;
	uintptr_t start, aligned;
	long at = attach_at(NULL, source, window, 0, offset);
	long reserved;

	if (is_error(at) || window->size < HUGE_PAGE || !(((uintptr_t)at ^ offset) & (HUGE_PAGE - 1)))
		return at;
	reserved = call_mmap(NULL, room, PROT_NONE, PLAIN | (window->flags & MAP_32BIT), -1, 0);
	if (is_error(reserved))
		return at;
	start = (uintptr_t)reserved;
	aligned = round_up(start, HUGE_PAGE) + (offset & (HUGE_PAGE - 1));
	if (is_error(attach_at((void *)aligned, source, window, MAP_FIXED, offset))) {
		call_munmap((void *)start, room);
		return at;
	}
	call_munmap((void *)at, window->size);
	if (aligned > start)
		call_munmap((void *)start, aligned - start);
	if (start + room > aligned + window->size)
		call_munmap((void *)(aligned + window->size),
			    start + room - aligned - window->size);
	return (long)aligned;
}

static long attach(const struct source *source, const struct window *window, uint64_t offset)
{
	long at;

	if (window->flags & MAP_FIXED_NOREPLACE)
		return attach_at(window->hint, source, window, 0, offset);
	if (window->hint) {
		at = attach_at_hint(source, window, offset);
		if (!is_error(at))
			return at;
	}
	return attach_aligned(source, window, offset);
}

long region_attach(int fd, const struct window *window, uint64_t offset)
{
	struct source source;
	long at = begin(&source, fd);

	if (at)
		return at;
	at = attach(&source, window, offset);
	end(&source);
	return at;
}

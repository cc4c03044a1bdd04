/* SPDX-License-Identifier: MIT */
/*
 * region.c - free ranges of the region, found and taken without a lock.
 *
 * What is mapped stands in the region's layout, which the mount tells as JSON.  A free
 * range is read from there and then asked for with MAP_FIXED_NOREPLACE: if another process
 * was faster the mount says EEXIST, and the search starts again.  Each such failure is a
 * success of somebody else, so it ends.
 *
 * A range is attached before memory is put there.  So there is no moment at which a range
 * has memory and nobody has it attached, whoever is killed when; mshare run gives back
 * what nobody has attached.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <msharefs.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAYOUT "user.msharefs.layout"
/* The most that an extended attribute can have; one more byte makes it a string. */
#define LAYOUT_SIZE 65536
#define SCRATCH_SIZE (LAYOUT_SIZE + 1)
#define NAME_SIZE 48

/* Bits of mmap(2) that this library's own mappings are made with. */
#define PLAIN (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

int region_open(int flags)
{
	const struct settings *run = settings();
	struct stat status;
	long fd = call_open(run->region, flags | O_NOFOLLOW);
	long failed;

	if (fd < 0)
		return (int)fd;
	failed = call_fstat((int)fd, &status);
	if (!failed && (status.st_dev != run->device || status.st_ino != run->inode))
		failed = -ESTALE;
	if (failed) {
		call_close((int)fd);
		return (int)failed;
	}
	return (int)fd;
}

/* The number behind the next `"name":` at or after *at and before `end`, or false. */
static bool read_number(const char **at, const char *end, const char *name, uint64_t *value)
{
	const char *found = strstr(*at, name);

	if (!found || found >= end)
		return false;
	found += strlen(name);
	while (*found == ':' || *found == ' ')
		found++;
	if (*found < '0' || *found > '9')
		return false;
	for (*value = 0; *found >= '0' && *found <= '9'; found++)
		*value = *value * 10 + (uint64_t)(*found - '0');
	*at = found;
	return true;
}

static void attribute_name(char *name, uint64_t from)
{
	char digits[21];
	char *at = digits + sizeof(digits) - 1;

	strcpy(name, LAYOUT);
	if (!from)
		return;
	*at = 0;
	do
		*--at = (char)('0' + from % 10);
	while (from /= 10);
	strcat(name, ".");
	strcat(name, at);
}

/* One part of the layout as text: its mappings are between *mappings and *end. */
static int read_part(int fd, uint64_t from, char *text, const char **mappings, const char **end)
{
	int before = errno;
	char name[NAME_SIZE];
	long length;

	attribute_name(name, from);
	do
		length = syscall(SYS_fgetxattr, fd, name, text, LAYOUT_SIZE);
	while (length < 0 && errno == EINTR);
	if (length < 0) {
		int error = errno;

		errno = before;
		return -error;
	}
	text[length] = 0;
	*mappings = strstr(text, "\"mappings\"");
	*end = *mappings ? strchr(*mappings, ']') : NULL;
	return *end ? 0 : -EPROTO;
}

/* The lowest offset with `size` free bytes and a gap on both sides, in a layout read part by
 * part into `text`. */
static int search(int fd, uint64_t size, uint64_t region_size, char *text, uint64_t *offset)
{
	uint64_t candidate = 0, from = 0, start, length;
	const char *at = text, *end = text;
	int failed;

	do {
		failed = read_part(fd, from, text, &at, &end);
		if (failed)
			return failed;
		while (read_number(&at, end, "\"offset\"", &start) &&
		       read_number(&at, end, "\"size\"", &length)) {
			if (start >= candidate && start - candidate >= size + GAP) {
				*offset = candidate;
				return 0;
			}
			if (start + length + GAP > candidate)
				candidate = round_up(start + length + GAP, HUGE_PAGE);
		}
	} while (read_number(&end, text + LAYOUT_SIZE, "\"next\"", &from));
	if (candidate > region_size || region_size - candidate < size)
		return -ENOSPC;
	*offset = candidate;
	return 0;
}

static int find_free(int fd, uint64_t size, uint64_t *offset)
{
	struct stat status;
	long failed = call_fstat(fd, &status);
	long text;

	if (failed)
		return (int)failed;
	text = call_mmap(NULL, SCRATCH_SIZE, PROT_READ | PROT_WRITE, PLAIN, -1, 0);
	if (is_error(text))
		return (int)text;
	failed = search(fd, size, (uint64_t)status.st_size, (char *)text, offset);
	call_munmap((void *)text, SCRATCH_SIZE);
	return (int)failed;
}

static int put_memory(int fd, uint64_t offset, uint64_t size, int prot, uint32_t flags)
{
	struct mshare_create create = {
		.region_offset = offset,
		.size = size,
		/* Architectures have bits of their own, such as PROT_BTI. */
		.prot = (uint32_t)prot & (PROT_READ | PROT_WRITE | PROT_EXEC),
		.flags = MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | flags,
		.fd = (uint32_t)-1,
	};

	return (int)call_ioctl(fd, MSHAREFS_CREATE_MAPPING, &create);
}

static long attach_at(void *at, int fd, const struct window *window, int more, uint64_t offset)
{
	return call_mmap(at, window->size, window->prot, window->flags | more, fd, offset);
}

/* Where the program would like it, if that is free.  Left to itself the kernel would rather
 * have a file in huge pages than at a hint. */
static long attach_at_hint(int fd, const struct window *window, uint64_t offset)
{
	uintptr_t hint = round_up((uintptr_t)window->hint, settings()->page);

	return attach_at((void *)hint, fd, window, MAP_FIXED_NOREPLACE, offset);
}

/* Attach so that address and offset are the same place in a huge page; else the range would
 * take small entries.  The kernel does so by itself nearly always. */
static long attach_aligned(int fd, const struct window *window, uint64_t offset)
{
	size_t room = window->size + HUGE_PAGE;
	uintptr_t start, aligned;
	long at = attach_at(NULL, fd, window, 0, offset);
	long reserved;

	if (is_error(at) || !(((uintptr_t)at ^ offset) & (HUGE_PAGE - 1)))
		return at;
	reserved = call_mmap(NULL, room, PROT_NONE, PLAIN | (window->flags & MAP_32BIT), -1, 0);
	if (is_error(reserved))
		return at;
	start = (uintptr_t)reserved;
	aligned = round_up(start, HUGE_PAGE) + (offset & (HUGE_PAGE - 1));
	if (is_error(attach_at((void *)aligned, fd, window, MAP_FIXED, offset))) {
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

static long attach(int fd, const struct window *window, uint64_t offset)
{
	long at;

	if (window->flags & MAP_FIXED_NOREPLACE)
		return attach_at(window->hint, fd, window, 0, offset);
	if (window->hint) {
		at = attach_at_hint(fd, window, offset);
		if (!is_error(at))
			return at;
	}
	return attach_aligned(fd, window, offset);
}

static int place_once(int fd, const struct window *window, void **at, uint64_t *offset)
{
	int failed = find_free(fd, window->size, offset);
	long address;

	if (failed)
		return failed;
	address = attach(fd, window, *offset);
	if (is_error(address))
		return (int)address;
	failed = put_memory(fd, *offset, window->size, window->prot, window->create);
	if (failed)
		call_munmap((void *)address, window->size);
	*at = (void *)address;
	return failed;
}

int region_place(int fd, const struct window *window, void **at, uint64_t *offset)
{
	bool collected = false;
	int failed;

	for (;;) {
		failed = place_once(fd, window, at, offset);
		/* From the mount it means that another was faster.  From mmap(2) it is about an
		 * address that the program insists on. */
		if (failed == -EEXIST && !(window->flags & MAP_FIXED_NOREPLACE))
			continue;
		if ((failed != -ENOMEM && failed != -ENOSPC) || collected)
			return failed;
		/* Memory of processes that have ended may still be there. */
		tell_collector(TELL_COLLECT, 0);
		collected = true;
	}
}

int region_create(int fd, uint64_t size, uint32_t flags, uint64_t *offset)
{
	int failed;

	do {
		failed = find_free(fd, size, offset);
		if (!failed)
			failed = put_memory(fd, *offset, size, PROT_READ | PROT_WRITE, flags);
	} while (failed == -EEXIST);
	return failed;
}

int region_extend(int fd, uint64_t offset, uint64_t size)
{
	return put_memory(fd, offset, size, PROT_READ | PROT_WRITE, 0);
}

int region_unmap(int fd, uint64_t offset, uint64_t size)
{
	struct mshare_unmap unmap = {.region_offset = offset, .size = size};

	return (int)call_ioctl(fd, MSHAREFS_UNMAP, &unmap);
}

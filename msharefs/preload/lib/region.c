/* SPDX-License-Identifier: MIT */
/*
 * region.c - the region: opening it, finding free places, and mapping memory there.
 *
 * What is mapped stands in the region's layout, which the mount tells as JSON.  Because that
 * is long where there are many mappings, what one look has found to be free is kept in the
 * run's file and used up from there; the next look follows when that is gone, or wrong.
 */
#define _GNU_SOURCE
#include "runfile.h"

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

int region_open(int flags)
{
	const char *path = settings()->region;
	int error = 0;
	struct run_header *run = run_file(&error);
	struct stat status;
	long failed, fd;

	if (!run)
		return error;
	fd = call_open(path, flags | O_NOFOLLOW);
	if (fd < 0)
		return (int)fd;
	failed = call_fstat((int)fd, &status);
	if (!failed && (status.st_dev != atomic_load(&run->device) ||
			status.st_ino != atomic_load(&run->inode)))
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

/* The lowest offset from `least` on with `size` free bytes `below` an offset and a gap on both
 * sides, in a layout read part by part into `text`; and where what is free there ends. */
static int search(int fd, uint64_t size, uint64_t least, uint64_t below, char *text, uint64_t *offset,
		  uint64_t *end_of_free)
{
	uint64_t candidate = least, from = 0, start, length;
	const char *at = text, *end = text;
	int failed;

	do {
		failed = read_part(fd, from, text, &at, &end);
		if (failed)
			return failed;
		while (read_number(&at, end, "\"offset\"", &start) &&
		       read_number(&at, end, "\"size\"", &length)) {
			if (start > below)
				start = below + GAP;
			if (start >= candidate && start - candidate >= size + GAP) {
				*offset = candidate;
				*end_of_free = start - GAP;
				return 0;
			}
			if (start + length + GAP > candidate)
				candidate = round_up(start + length + GAP, HUGE_PAGE);
		}
	} while (read_number(&end, text + LAYOUT_SIZE, "\"next\"", &from));
	if (candidate > below || below - candidate < size)
		return -ENOSPC;
	*offset = candidate;
	*end_of_free = below;
	return 0;
}

static int look(int fd, uint64_t size, uint64_t least, uint64_t below, uint64_t *offset,
		uint64_t *end_of_free)
{
	long text = call_mmap(NULL, SCRATCH_SIZE, PROT_READ | PROT_WRITE, PLAIN, -1, 0);
	int failed;

	if (is_error(text))
		return (int)text;
	failed = search(fd, size, least, below, (char *)text, offset, end_of_free);
	call_munmap((void *)text, SCRATCH_SIZE);
	return failed;
}

static int first_mapped(int fd, uint64_t from, char *text, uint64_t *first)
{
	const char *at, *end;
	int failed = read_part(fd, from, text, &at, &end);

	if (failed)
		return failed;
	return read_number(&at, end, "\"offset\"", first);
}

int region_first_mapped(int fd, uint64_t start, uint64_t end, uint64_t *first)
{
	long text = call_mmap(NULL, SCRATCH_SIZE, PROT_READ | PROT_WRITE, PLAIN, -1, 0);
	int found;

	if (is_error(text))
		return (int)text;
	found = first_mapped(fd, start, (char *)text, first);
	call_munmap((void *)text, SCRATCH_SIZE);
	return found > 0 ? *first < end : found;
}

/* Take the next place out of what is known to be free. */
static bool take(struct run_header *run, uint64_t units, uint64_t *offset)
{
	uint64_t room = atomic_load(&run->room);

	while ((room >> 32) + units <= (uint32_t)room &&
	       (room >> 32) + units <= atomic_load(&run->floor)) {
		if (!atomic_compare_exchange_weak(&run->room, &room, room + ((units + 1) << 32)))
			continue;
		*offset = (room >> 32) * HUGE_PAGE;
		return true;
	}
	return false;
}

int region_find_free(int fd, uint64_t size, uint64_t from, uint64_t *offset)
{
	struct run_header *run = run_file_if_mapped();
	uint64_t units = round_up(size, HUGE_PAGE) / HUGE_PAGE;
	uint64_t below = atomic_load(&run->floor) * HUGE_PAGE;
	uint64_t next, end;
	int failed;

	if (!from && take(run, units, offset))
		return 0;
	if (below > run->region_size)
		below = run->region_size;
	failed = look(fd, size, from ? round_up(from + GAP, HUGE_PAGE) : 0, below, offset, &end);
	if (failed)
		return failed;
	next = *offset / HUGE_PAGE + units + 1;
	if (end / HUGE_PAGE <= UINT32_MAX && next <= end / HUGE_PAGE)
		atomic_store(&run->room, next << 32 | end / HUGE_PAGE);
	return 0;
}

void region_look_again(void)
{
	atomic_store(&run_file_if_mapped()->room, 0);
}

static int create(int fd, uint64_t offset, uint64_t size, int prot, uint32_t flags)
{
	struct mshare_create create = {
		.region_offset = offset,
		.size = size,
		/* Architectures have bits of their own, such as PROT_BTI. */
		.prot = (uint32_t)prot & (PROT_READ | PROT_WRITE | PROT_EXEC),
		.flags = MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS | flags,
		.fd = (uint32_t)-1,
	};

	return (int)call_ioctl(fd, MSHAREFS_CREATE_MAPPING, &create);
}

int region_map(int fd, uint64_t offset, uint64_t size, int prot, uint32_t flags)
{
	return create(fd, offset, size, prot, flags | MAP_FIXED_NOREPLACE);
}

int region_map_anew(int fd, uint64_t offset, uint64_t size, uint32_t flags)
{
	return create(fd, offset, size, PROT_READ | PROT_WRITE, flags);
}

int region_unmap(int fd, uint64_t offset, uint64_t size)
{
	struct mshare_unmap unmap = {.region_offset = offset, .size = size};

	return (int)call_ioctl(fd, MSHAREFS_UNMAP, &unmap);
}

/* SPDX-License-Identifier: MIT */
/*
 * say.c - one line on standard error, in one write(2), without the C library's streams.
 *
 * A daemon may have closed descriptor 2 and have opened a file of its own there.  Nothing
 * is written to a regular file that is neither open for appending nor the one that the
 * process had there when it was started.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINE_SIZE 512

struct line {
	char text[LINE_SIZE];
	size_t length;
};

static struct stat first;

__attribute__((constructor)) static void look_at_standard_error(void)
{
	if (settings() && call_fstat(STDERR_FILENO, &first))
		first.st_ino = 0;
}

static bool may_write(void)
{
	struct stat now;
	int before = errno;
	int flags;

	if (call_fstat(STDERR_FILENO, &now))
		return false;
	if (!S_ISREG(now.st_mode))
		return true;
	if (now.st_dev == first.st_dev && now.st_ino == first.st_ino)
		return true;
	flags = fcntl(STDERR_FILENO, F_GETFL);
	errno = before;
	return flags != -1 && flags & O_APPEND;
}

static void put(struct line *line, const char *text)
{
	size_t length = strlen(text);
	/* The newline always fits. */
	size_t room = LINE_SIZE - 1 - line->length;

	if (length > room)
		length = room;
	memcpy(line->text + line->length, text, length);
	line->length += length;
}

static void put_number(struct line *line, uint64_t value)
{
	char digits[21];
	char *at = digits + sizeof(digits) - 1;

	*at = 0;
	do
		*--at = (char)('0' + value % 10);
	while (value /= 10);
	put(line, at);
}

static void put_size(struct line *line, uint64_t size)
{
	static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
	uint64_t tenths = 0;
	unsigned int unit = 0;

	while (size >= 1024) {
		tenths = size % 1024 * 10 / 1024;
		size /= 1024;
		unit++;
	}
	put_number(line, size);
	if (tenths) {
		put(line, ".");
		put_number(line, tenths);
	}
	put(line, units[unit]);
}

static void put_reason(struct line *line, int error)
{
	static const struct {
		int error;
		const char *text;
	} known[] = {
		{ENOMEM, "the mount has not enough memory (ENOMEM)"},
		{ENOSPC, "the region has no free range of that size (ENOSPC)"},
		{EACCES, "no permission (EACCES)"},
		{EPERM, "the system does not permit it (EPERM)"},
		{ENOENT, "the region is gone (ENOENT)"},
		{ENOTDIR, "the region is gone (ENOTDIR)"},
		{ESTALE, "the region is gone (ESTALE)"},
		{ENODEV, "the mount cannot be asked from this network namespace (ENODEV)"},
		{ENOTCONN, "the mount's daemon has died (ENOTCONN)"},
		{ECONNREFUSED, "the collector of this run has died (ECONNREFUSED)"},
		{ENOSR, "the run's tables are full (ENOSR)"},
		{EMFILE, "no descriptor is left (EMFILE)"},
		{ENFILE, "no descriptor is left (ENFILE)"},
		{EINVAL, "the mount refuses such a mapping (EINVAL)"},
		{EOPNOTSUPP, "the mount cannot do that (EOPNOTSUPP)"},
	};
	unsigned int i;

	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].error == error) {
			put(line, known[i].text);
			return;
		}
	put(line, "error ");
	put_number(line, (uint64_t)error);
}

static void begin(struct line *line)
{
	char name[16] = "?";

	prctl(PR_GET_NAME, name);
	line->length = 0;
	put(line, "mshare run: ");
	put(line, name);
	put(line, "[");
	put_number(line, (uint64_t)getpid());
	put(line, "]: ");
}

static void end(struct line *line)
{
	int before = errno;

	line->text[line->length++] = '\n';
	/* There is nobody to tell that it failed. */
	if (may_write() && syscall(SYS_write, STDERR_FILENO, line->text, line->length) < 0)
		errno = before;
}

void say_left(const char *what, uint64_t size, int error)
{
	struct line line;

	begin(&line);
	put_size(&line, size);
	put(&line, " of ");
	put(&line, what);
	put(&line, " stay outside of ");
	put(&line, settings()->region);
	put(&line, ": ");
	put_reason(&line, error);
	end(&line);
}

void say_outside(uint64_t size)
{
	struct line line;

	begin(&line);
	put_size(&line, size);
	put(&line, " of shared memory are outside of ");
	put(&line, settings()->region);
	put(&line, " at the end");
	end(&line);
}

void say_no_room(const char *what, uint64_t wanted, uint64_t room)
{
	struct line line;

	begin(&line);
	put_size(&line, wanted);
	put(&line, " of a segment of ");
	put(&line, what);
	put(&line, " cannot be mapped: it has room for ");
	put_size(&line, room);
	end(&line);
}

void say_out_of_reach(const char *path, const char *reason)
{
	struct line line;

	begin(&line);
	put(&line, path);
	put(&line, " cannot have its memory in ");
	put(&line, settings()->region);
	put(&line, ": ");
	put(&line, reason);
	end(&line);
}

void say_placed(const char *what, uint64_t size, uint64_t offset)
{
	struct line line;

	begin(&line);
	put_size(&line, size);
	put(&line, " of ");
	put(&line, what);
	put(&line, " live in the region at offset ");
	put_number(&line, offset);
	end(&line);
}

void left_outside(const char *what, uint64_t size, int error)
{
	say_left(what, size, error);
	if (settings()->strict)
		syscall(SYS_exit_group, EXIT_RUN_FAILED);
}

/* SPDX-License-Identifier: MIT */
/*
 * outside.c - shared memory that a process has at its end and that is not in the region.
 *
 * Some calls come past the library: system calls without the C library, and those of libraries
 * that were bound to other functions.  What they have mapped is in /proc/self/maps, under the name
 * that the kernel gives to shared memory without a file.  It is looked at once, as the process
 * exits, and only where somebody has asked to hear of it.
 */
#include "preload.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAPS "/proc/self/maps"
#define WITHOUT_A_FILE " /dev/zero (deleted)"
/* A line has a path, and more are read at a time. */
#define TEXT_SIZE ((size_t)64 << 10)

/* The bytes of the area that a line tells of, if it is such memory and large enough. */
static uint64_t size_of(const char *line)
{
	const char *name = strstr(line, WITHOUT_A_FILE);
	char *end;
	uint64_t start, size;

	if (!name || name[strlen(WITHOUT_A_FILE)])
		return 0;
	start = strtoull(line, &end, 16);
	size = *end == '-' ? strtoull(end + 1, NULL, 16) - start : 0;
	return size < settings()->min_size ? 0 : size;
}

/* The same of all whole lines in a text; *rest is the length of what follows them. */
static uint64_t size_in(char *text, size_t length, size_t *rest)
{
	char *line = text, *end;
	uint64_t sum = 0;

	while ((end = memchr(line, '\n', (size_t)(text + length - line)))) {
		*end = 0;
		sum += size_of(line);
		line = end + 1;
	}
	*rest = (size_t)(text + length - line);
	memmove(text, line, *rest);
	return sum;
}

static uint64_t size_in_file(int fd, char *text)
{
	size_t kept = 0;
	uint64_t sum = 0;
	long got;

	while (kept < TEXT_SIZE &&
	       (got = syscall(SYS_read, fd, text + kept, TEXT_SIZE - kept)) > 0)
		sum += size_in(text, kept + (size_t)got, &kept);
	return sum;
}

static uint64_t size_outside(void)
{
	long text = call_mmap(NULL, TEXT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			      -1, 0);
	long fd = is_error(text) ? text : call_open(MAPS, O_RDONLY);
	uint64_t sum = 0;

	if (fd >= 0) {
		sum = size_in_file((int)fd, (char *)text);
		call_close((int)fd);
	}
	if (!is_error(text))
		call_munmap((void *)text, TEXT_SIZE);
	return sum;
}

__attribute__((destructor)) static void look_at_the_end(void)
{
	const struct settings *run = settings();
	uint64_t size = run && (run->verbose || run->strict) ? size_outside() : 0;

	if (!size)
		return;
	say_outside(size);
	if (!run->strict)
		return;
	/* What the program has written is not lost by that. */
	fflush(NULL);
	syscall(SYS_exit_group, EXIT_RUN_FAILED);
}

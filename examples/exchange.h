/* SPDX-License-Identifier: MIT */
/*
 * exchange.h - what producer, consumer and share.py have agreed to put into the
 * region, and the two steps that the C programs have in common.
 *
 * Offsets are those of the region, so they mean the same in every process,
 * wherever it has the region mapped; pointers would not.
 */
#ifndef EXCHANGE_H
#define EXCHANGE_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_MOUNT "/sys/fs/mshare"
#define DEFAULT_NAME "exchange"

#define EXCHANGE_READY 0x726561647921ULL
#define EXCHANGE_COUNT 1000

struct exchange {
	uint64_t state;    /* EXCHANGE_READY once all that follows is written */
	uint64_t count;    /* how many numbers there are */
	uint64_t checksum; /* of the numbers, see exchange_checksum() */
	uint64_t answer;   /* the sum of the numbers, written by the consumer; 0 before */
	uint64_t numbers[EXCHANGE_COUNT];
};

/* Depends on each number and on its place. */
static inline uint64_t exchange_checksum(const uint64_t *numbers, uint64_t count)
{
	uint64_t checksum = 0;
	uint64_t i;

	for (i = 0; i < count; i++)
		checksum = checksum * 31 + numbers[i];
	return checksum;
}

/* Says on standard error what could not be done with which file, and why; ends the program. */
static inline void fail(const char *what, const char *path)
{
	fprintf(stderr, "%s: cannot %s %s: %s\n", program_invocation_short_name, what, path,
		strerror(errno));
	exit(1);
}

/* The path of a file on the mount, or the end of the program if it is too long. */
static inline void join(char *path, const char *mount, const char *name)
{
	if (snprintf(path, PATH_MAX, "%s/%s", mount, name) >= PATH_MAX) {
		errno = ENAMETOOLONG;
		fail("use", name);
	}
}

#endif /* EXCHANGE_H */

/* SPDX-License-Identifier: MIT */
/*
 * settings.c - reads once what mshare run says in the environment.
 *
 * The words are copied: programs write over their environment, and some do it to show a
 * title in ps(1).
 */
#define _GNU_SOURCE
#include "preload.h"

#include <limits.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_SIZE sizeof(((struct sockaddr_un *)0)->sun_path)

enum { UNREAD, ABSENT, PRESENT };

static atomic_int state;
static struct settings known;
static char region[PATH_MAX];
static char run_file[PATH_MAX];
/* As long as the address of a socket may be. */
static char collector[SOCKET_SIZE];

/* getenv(3) would do, but for the programs that replace environ by NULL. */
static const char *word(const char *name)
{
	size_t length = strlen(name);
	char **each;

	for (each = environ; each && *each; each++)
		if (!strncmp(*each, name, length) && (*each)[length] == '=')
			return *each + length + 1;
	return NULL;
}

static const char *number(const char *text, uint64_t *value)
{
	*value = 0;
	while (*text >= '0' && *text <= '9')
		*value = *value * 10 + (uint64_t)(*text++ - '0');
	return text;
}

static bool copy(char *to, size_t room, const char *from)
{
	size_t length = from ? strlen(from) : 0;

	if (!length || length >= room)
		return false;
	memcpy(to, from, length + 1);
	return true;
}

static bool set(const char *name)
{
	const char *text = word(name);

	return text && text[0] == '1' && !text[1];
}

/* "device:inode" of the run's own file. */
static bool read_identity(const char *text)
{
	uint64_t device, inode;

	if (!text)
		return false;
	text = number(text, &device);
	if (*text != ':' || *number(text + 1, &inode))
		return false;
	known.run_device = (dev_t)device;
	known.run_inode = (ino_t)inode;
	return true;
}

static bool read_settings(void)
{
	const char *size = word("MSHAREFS_MIN_SIZE");
	uint64_t least;

	if (!size || *number(size, &least) || !read_identity(word("MSHAREFS_RUN_ID")) ||
	    !copy(region, sizeof(region), word("MSHAREFS_REGION")) ||
	    !copy(run_file, sizeof(run_file), word("MSHAREFS_RUN")))
		return false;
	known.region = region;
	known.run_file = run_file;
	known.collector =
		copy(collector, sizeof(collector), word("MSHAREFS_COLLECTOR")) ? collector : NULL;
	known.min_size = least ? least : 1;
	known.page = (size_t)sysconf(_SC_PAGESIZE);
	known.shm = set("MSHAREFS_SHM");
	known.strict = set("MSHAREFS_STRICT");
	known.verbose = set("MSHAREFS_VERBOSE");
	return true;
}

const struct settings *settings(void)
{
	int now = atomic_load_explicit(&state, memory_order_acquire);

	if (now == UNREAD) {
		/* A library's constructor may map before ours has run.  Two that read at the same
		 * time write the same. */
		if (!environ)
			return NULL;
		now = read_settings() ? PRESENT : ABSENT;
		atomic_store_explicit(&state, now, memory_order_release);
	}
	return now == PRESENT ? &known : NULL;
}

__attribute__((constructor)) static void read_early(void)
{
	settings();
}

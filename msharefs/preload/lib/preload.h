/* SPDX-License-Identifier: MIT */
/*
 * preload.h - what the parts of the preloaded library share.
 *
 * The library stands between a program and the C library for a handful of calls.
 * Any thread may be inside any of them, a signal handler may call mmap(2) while its
 * own thread is in the middle of it, and fork(2) may happen at any time.  So:
 *
 *   - nothing here allocates memory, takes a lock of the process or keeps a
 *     descriptor open between two calls;
 *   - system calls go straight to the kernel, so that none of them is a point of
 *     cancellation, and none comes back to a hook;
 *   - which process has a range attached is known from the kernel's own list of
 *     mappings (/proc/PID/maps), never from a count kept here: fork, exec and kill
 *     change that list by themselves.
 */
#ifndef MSHAREFS_PRELOAD_H
#define MSHAREFS_PRELOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#define HOOK __attribute__((visibility("default")))

/* What one entry of the second level of page tables maps. */
#define HUGE_PAGE ((uint64_t)2 << 20)

/* Between two ranges of the region nothing is mapped, so that whatever runs beyond
 * the end of one meets a hole and not its neighbour. */
#define GAP HUGE_PAGE

/* settings.c: what mshare run says in the environment. */
struct settings {
	const char *region;     /* the absolute path of the region */
	dev_t device;           /* what that path must lead to */
	ino_t inode;
	const char *collector; /* name of the abstract socket, without the leading zero */
	size_t min_size;
	size_t page;
	uint64_t table;      /* where in the region the table of segments is */
	bool shm;               /* there is a table */
	bool strict;
	bool verbose;
};

/* NULL if this process is not part of a run. */
const struct settings *settings(void);

/* calls.c: system calls, as the kernel has them.  The result or -errno; errno stays. */
long call_mmap(void *at, size_t size, int prot, int flags, int fd, uint64_t offset);
long call_munmap(void *at, size_t size);
long call_mremap(void *at, size_t size, size_t new_size, int flags, void *target);
long call_open(const char *path, int flags);
long call_close(int fd);
long call_fstat(int fd, struct stat *status);
long call_ioctl(int fd, unsigned long number, const void *argument);
long call_ftruncate(int fd, uint64_t size);

static inline bool is_error(long result)
{
	return result < 0 && result > -4096;
}

/* What a hook returns to its program: the result, or -1 with errno. */
long answer(long result);

/* region.c: ranges of the region.  Results are 0 or -errno. */
struct window {
	void *hint;       /* where the program would like it */
	size_t size;      /* whole pages */
	int prot;
	int flags;        /* for mmap(2) of the region, MAP_SHARED included */
	uint32_t create;  /* more flags for MSHAREFS_CREATE_MAPPING */
};

/* Open the region; -ESTALE if the path leads somewhere else by now. */
int region_open(int flags);

/* Put memory into a free range and attach it. */
int region_place(int fd, const struct window *window, void **at, uint64_t *offset);

/* Put memory into a free range without attaching it; or into just this range. */
int region_create(int fd, uint64_t size, uint32_t flags, uint64_t *offset);
int region_extend(int fd, uint64_t offset, uint64_t size);
int region_unmap(int fd, uint64_t offset, uint64_t size);

/* windows.c: the windows on the region that this process has.  A process whose table is
 * full works as well; its windows are given back a little later. */
struct piece {
	uintptr_t start;
	uintptr_t end;
	uint64_t offset; /* in the region */
	void *segment;   /* where the System V segment itself is attached, or NULL */
};

bool windows_any(void);
bool windows_add(const struct piece *piece);

/* The piece that holds the address. */
bool windows_find(uintptr_t address, struct piece *found);

/* What was mapped at these addresses is not there any more: take it out of the table, and
 * tell the collector. */
void windows_forget(uintptr_t start, uintptr_t end);

/* munmap(2) of addresses with windows among them.  The result or -errno. */
long windows_unmap(uintptr_t start, size_t size);

/* Take the addresses out of the table and tell nobody, because the window is elsewhere by now.
 * The System V segment that went with it, if it was one whole window. */
void *windows_take(uintptr_t start, uintptr_t end);

/* collector.c: telling the process that gives ranges back. */
enum tell {
	TELL_PLACED = 'p',  /* a range was attached */
	TELL_GONE = 'g',    /* a window on a range went; wait for the verdict */
	TELL_COLLECT = 'c', /* look at everything; wait for the end of it */
	TELL_HINT = 'h',    /* look at everything when there is time */
};

void tell_collector(enum tell what, uint64_t offset);

/* say.c: one line on standard error. */
void say_left(const char *what, uint64_t size, int error);
void say_placed(const char *what, uint64_t size, uint64_t offset);

/* The same as say_left(), and then the end of the process if the run is strict. */
void left_outside(const char *what, uint64_t size, int error);

/* posix.c: file mappings of segments that live in the region.  True if it is one, and then
 * *result is what mmap returns or -errno. */
bool shm_mmap(void *at, size_t size, int prot, int flags, int fd, uint64_t offset, long *result);

static inline uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

#endif

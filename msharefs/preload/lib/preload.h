/* SPDX-License-Identifier: MIT */
/*
 * preload.h - what the parts of the preloaded library share.
 *
 * The library stands between a program and the C library for a handful of calls.
 * Any thread may be inside any of them, a signal handler may call mmap(2) while its
 * own thread is in the middle of it, and fork(2) may happen at any time.  So:
 *
 *   - nothing here calls the C library's allocator or keeps a descriptor open between
 *     two calls;
 *   - where a lock is held all signals are blocked, it is one that a killed process or a
 *     forked child does not leave locked, and nobody waits for it without an end;
 *   - system calls go straight to the kernel, so that none of them is a point of
 *     cancellation, and none comes back to a hook;
 *   - which ranges of the region are in use is told by the kernel: by locks that live
 *     exactly as long as the address spaces that have them (holdings.c).
 *
 * The files call each other in one direction only, from hooks.c, posix.c and systemv.c
 * down to calls.c; tests/unit/test_preload_sources.py sees to it.
 */
#ifndef MSHAREFS_PRELOAD_H
#define MSHAREFS_PRELOAD_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#define HOOK __attribute__((visibility("default")))

/* As timeout(1) and env(1) end when they fail themselves. */
#define EXIT_RUN_FAILED 125

/* What one entry of the second level of page tables maps.  Every range of the region begins
 * at a multiple of it. */
#define HUGE_PAGE ((uint64_t)2 << 20)

/* Between two ranges of the region nothing is mapped, so that whatever runs beyond
 * the end of one meets a hole and not its neighbour. */
#define GAP HUGE_PAGE

/* Bits of mmap(2) that this library's own mappings are made with. */
#define PLAIN (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

/* settings.c: what mshare run says in the environment. */
struct settings {
	const char *region;    /* the absolute path of the region */
	const char *run_file;  /* that of the run's own file */
	dev_t run_device;      /* what the latter path must lead to */
	ino_t run_inode;
	const char *collector; /* the path of its socket */
	size_t min_size;
	size_t page;
	bool shm;
	bool strict;
	bool verbose;
};

/* NULL if this process is not part of a run. */
const struct settings *settings(void);

/* calls.c: system calls, as the kernel has them.  The result or -errno; errno stays. */
long call_mmap(void *at, size_t size, int prot, int flags, int fd, uint64_t offset);
long call_munmap(void *at, size_t size);
long call_mremap(void *at, size_t size, size_t new_size, int flags, void *target);
long call_madvise(void *at, size_t size, int advice);
long call_open(const char *path, int flags);
long call_close(int fd);
long call_fstat(int fd, struct stat *status);
long call_ioctl(int fd, unsigned long number, const void *argument);
long call_ftruncate(int fd, uint64_t size);
long call_fallocate(int fd, int mode, uint64_t offset, uint64_t size);
long call_fcntl(int fd, int command, void *argument);

void block_signals(sigset_t *before);
void restore_signals(const sigset_t *before);

static inline bool is_error(long result)
{
	return result < 0 && result > -4096;
}

/* What a hook returns to its program: the result, or -1 with errno. */
long answer(long result);

/* region.c: the region itself.  Results are 0 or -errno. */
struct window {
	void *hint;       /* where the program would like it */
	size_t size;      /* whole pages */
	int prot;
	int flags;        /* for mmap(2) of the region, MAP_SHARED included */
	uint32_t create;  /* more flags for MSHAREFS_CREATE_MAPPING */
};

/* Open the region; -ESTALE if the path leads somewhere else by now. */
int region_open(int flags);

/* Where `size` bytes could go, `from` an offset on: a guess that another process may have made as
 * well. */
int region_find_free(int fd, uint64_t size, uint64_t from, uint64_t *offset);

/* Whether anything is mapped between two offsets (1, and where the first of it begins), or not
 * (0); or -errno. */
int region_first_mapped(int fd, uint64_t start, uint64_t end, uint64_t *first);

/* Forget what the guesses are made from, because one was wrong. */
void region_look_again(void);

/* Zeroed memory; -EEXIST if anything is mapped there.  Or in place of what is there. */
int region_map(int fd, uint64_t offset, uint64_t size, int prot, uint32_t flags);
int region_map_anew(int fd, uint64_t offset, uint64_t size, uint32_t flags);
int region_unmap(int fd, uint64_t offset, uint64_t size);

/* direct.c: what is to be mapped for the region that is open as `fd`: the segment, as another
 * descriptor, which the caller closes; or `fd` itself, or -errno. */
int region_pages(int fd);

/* attach.c: mmap(2) of the open region, with the advice that its mount has for large windows. */
long region_window(void *at, size_t size, int prot, int flags, int fd, uint64_t offset);

/* The address, or -errno. */
long region_attach(int fd, const struct window *window, uint64_t offset);

/* windows.c: the windows on the region that this process has. */
struct piece {
	uintptr_t start;
	uintptr_t end;
	uint64_t offset; /* in the region */
	void *segment;   /* where the System V segment itself is attached, or NULL */
	uint32_t range;  /* its number, see ranges.h */
};

struct entry;

bool windows_any(void);

/* A place in the table for a window that is about to be; from now on windows_have() knows of
 * its range.  NULL without memory. */
struct entry *windows_reserve(uint32_t range);
void windows_set(struct entry *entry, const struct piece *piece);
void windows_release(struct entry *entry);

/* The piece that holds the address. */
bool windows_find(uintptr_t address, struct piece *found);

/* Whether any window, also one that comes or goes just now, is on the range. */
bool windows_have(uint32_t range);
void windows_each(void (*visit)(uint32_t range));

/* Mark what lies at these addresses as going; `mark` is an odd number of the caller's own. */
bool windows_cut(uintptr_t start, uintptr_t end, uintptr_t mark);
/* Take the next one of them out of the table, or put all back. */
bool windows_take_cut(uintptr_t mark, struct piece *cut);
void windows_restore(uintptr_t mark);
/* Put all back `by` bytes further on, because they are there now; the one that ended at `old_end`
 * is longer by `growth`. */
void windows_shift(uintptr_t mark, uintptr_t by, uintptr_t old_end, size_t growth);

/* detach.c: the end of windows. */

/* What was mapped at these addresses is not there any more. */
void detach_forget(uintptr_t start, uintptr_t end);

/* munmap(2) of addresses with windows among them.  The result or -errno. */
long detach_unmap(uintptr_t start, size_t size);

/* Let go of what windows_cut() has marked. */
void detach_marked(uintptr_t mark);

/* remap.c: mremap(2) of any address of a process that has windows.  The address or -errno. */
long remap_windows(uintptr_t old, size_t size, size_t new_size, int flags, void *target);

/* punch.c: madvise(MADV_REMOVE) from a window on. */
int punch_windows(uintptr_t start, size_t size);

/* collector.c: asking the process that gives back what nobody has. */

/* Look at everything and give back what can be given back; returns when that is done. */
void ask_to_collect(void);

/* Hold this file open, and see when nobody else has it any more.  0 or -errno. */
int ask_to_hold(int file);

/* say.c: one line on standard error. */
void say_left(const char *what, uint64_t size, int error);
void say_outside(uint64_t size);
void say_out_of_reach(const char *path, const char *reason);
void say_no_room(const char *what, uint64_t wanted, uint64_t room);
void say_placed(const char *what, uint64_t size, uint64_t offset);

/* placed.c: what is told with -v of memory that lives in the region now: such a line, and the most
 * that there was at a time. */
void tell_placed(const char *what, uint64_t size, uint64_t offset);

/* The same as say_left(), and then the end of the process if the run is strict. */
void left_outside(const char *what, uint64_t size, int error);

/* posix_map.c: file mappings of segments that live in the region.  True if it is one, and then
 * *result is what mmap returns or -errno. */
bool shm_mmap(void *at, size_t size, int prot, int flags, int fd, uint64_t offset, long *result);

static inline uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

#endif

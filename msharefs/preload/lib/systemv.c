/* SPDX-License-Identifier: MIT */
/*
 * systemv.c - System V segments (shmget) of a run with --shm.
 *
 * The kernel's segment stays: its key, id, owner, mode and life.  shmat attaches it too, so
 * that the number of attached processes is right and the segment lives as long as anybody
 * has it, but nobody touches that memory, and what is not touched does not exist.  What the
 * program gets is a window on the region.
 */
#define _GNU_SOURCE
#include "segments.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define WHAT "System V shared memory"

static long call_shmat(int id, const void *at, int flags)
{
	int before = errno;
	long result = syscall(SYS_shmat, id, at, flags);
	long error = result == -1 ? -errno : result;

	errno = before;
	return error;
}

static bool shm_is_on(void)
{
	return settings() && settings()->shm;
}

static bool stat_segment(int id, struct shmid_ds *status)
{
	int before = errno;
	bool known = !syscall(SYS_shmctl, id, IPC_STAT, status);

	errno = before;
	return known;
}

/* Made by this very call: nobody has anything in it. */
static bool is_new(int id)
{
	struct shmid_ds status;

	return stat_segment(id, &status) && status.shm_cpid == getpid() && !status.shm_nattch &&
	       !status.shm_atime;
}

/* Whether the region may hold its memory, as far as the kernel tells. */
static bool may_be_ours(int id)
{
	struct shmid_ds status;

	return stat_segment(id, &status) && status.shm_segsz >= settings()->min_size;
}

static int move_in(const struct visit *visit, int id, uint64_t size, uint32_t flags)
{
	uint64_t offset;
	int failed;

	if (segments_find(visit, KIND_SYSTEM_V, (uint64_t)id) || !is_new(id))
		return 0;
	failed = region_create(visit->fd, size, flags, &offset);
	if (failed)
		return failed;
	failed = segments_add(visit, KIND_SYSTEM_V, (uint64_t)id, offset, size);
	if (failed)
		region_unmap(visit->fd, offset, size);
	else
		say_placed(WHAT, size, offset);
	return failed;
}

static void provide(int id, uint64_t size, uint32_t flags)
{
	bool collected = false;
	struct visit visit;
	int failed;

	for (;;) {
		failed = segments_enter(&visit);
		if (!failed) {
			failed = move_in(&visit, id, size, flags);
			segments_leave(&visit);
		}
		if (failed != -ENOMEM || collected)
			break;
		tell_collector(TELL_COLLECT, 0);
		collected = true;
	}
	if (failed)
		left_outside(WHAT, size, -failed);
}

HOOK int shmget(key_t key, size_t size, int flags)
{
	int id = (int)syscall(SYS_shmget, key, size, flags);

	/* Whoever asks for huge pages of the kernel has what a region gives. */
	if (id >= 0 && shm_is_on() && size >= settings()->min_size && !(flags & SHM_HUGETLB) &&
	    (flags & IPC_CREAT || key == IPC_PRIVATE))
		provide(id, round_up(size, settings()->page),
			flags & SHM_NORESERVE ? MAP_NORESERVE : 0);
	return id;
}

static long attach_window(const struct visit *visit, const struct segment *segment,
			  const void *at, int flags)
{
	bool reading = flags & SHM_RDONLY;
	uintptr_t address = (uintptr_t)at;
	int prot = PROT_READ | (reading ? 0 : PROT_WRITE) | (flags & SHM_EXEC ? PROT_EXEC : 0);
	int map = MAP_SHARED;
	int fd = reading ? region_open(O_RDONLY) : visit->fd;
	long result;

	if (fd < 0)
		return fd;
	if (at && flags & SHM_RND)
		address -= address % settings()->page;
	if (at)
		map |= flags & SHM_REMAP ? MAP_FIXED : MAP_FIXED_NOREPLACE;
	result = call_mmap((void *)address, segment->size, prot, map, fd, segment->offset);
	if (reading)
		call_close(fd);
	return result == -EEXIST ? -EINVAL : result;
}

/* The kernel's segment goes into window->segment, the address is the window's. */
static long attach(const struct visit *visit, const struct segment *segment, const void *at,
		   int flags, struct piece *window)
{
	long kernels = call_shmat((int)segment->id, NULL, flags & ~(SHM_RND | SHM_REMAP));
	long result;

	if (is_error(kernels))
		return kernels;
	result = attach_window(visit, segment, at, flags);
	if (is_error(result)) {
		syscall(SYS_shmdt, kernels);
		return result;
	}
	window->start = (uintptr_t)result;
	window->end = window->start + segment->size;
	window->offset = segment->offset;
	window->segment = (void *)kernels;
	return result;
}

static long note_window(const struct piece *window, int flags)
{
	if (flags & SHM_REMAP)
		windows_forget(window->start, window->end);
	/* shmdt must find it. */
	if (!windows_add(window)) {
		call_munmap((void *)window->start, window->end - window->start);
		syscall(SYS_shmdt, window->segment);
		return -ENOMEM;
	}
	tell_collector(TELL_PLACED, window->offset);
	return (long)window->start;
}

HOOK void *shmat(int id, const void *at, int flags)
{
	struct piece window = {0};
	struct segment *segment;
	struct visit visit;
	long result;

	if (!shm_is_on())
		return (void *)answer(call_shmat(id, at, flags));
	result = segments_enter(&visit);
	/* Memory of its own beside that of the others would be worse than none. */
	if (result && may_be_ours(id))
		return (void *)answer(result);
	if (result)
		return (void *)answer(call_shmat(id, at, flags));
	segment = segments_find(&visit, KIND_SYSTEM_V, (uint64_t)id);
	result = segment ? attach(&visit, segment, at, flags, &window) : call_shmat(id, at, flags);
	segments_leave(&visit);
	if (window.segment)
		result = note_window(&window, flags);
	return (void *)answer(result);
}

HOOK int shmdt(const void *at)
{
	struct piece window;

	/* The segment itself is detached when the window has gone. */
	if (shm_is_on() && windows_find((uintptr_t)at, &window) && window.segment &&
	    window.start == (uintptr_t)at)
		return (int)answer(windows_unmap(window.start, window.end - window.start));
	return (int)syscall(SYS_shmdt, at);
}

HOOK int shmctl(int id, int command, struct shmid_ds *buffer)
{
	int result = (int)syscall(SYS_shmctl, id, command, buffer);

	if (result >= 0 && command == IPC_RMID && shm_is_on())
		tell_collector(TELL_HINT, 0);
	return result;
}

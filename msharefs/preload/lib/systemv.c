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

#include "holdings.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WHAT "System V shared memory"

static long call_shmat(int id, const void *at, int flags)
{
	int before = errno;
	long result = syscall(SYS_shmat, id, at, flags);
	long error = result == -1 ? -errno : result;

	errno = before;
	return error;
}

/* The run's file, if this process sees the System V segments that the collector sees. */
static struct run_header *run_of_segments(void)
{
	struct run_header *run = NULL;
	struct stat namespace;
	int error, before = errno;

	if (settings() && settings()->shm)
		run = run_file(&error);
	if (run && (stat("/proc/self/ns/ipc", &namespace) ||
		    namespace.st_ino != run->ipc_namespace))
		run = NULL;
	errno = before;
	return run;
}

static struct segment *find(struct run_header *run, int id)
{
	return run && atomic_load(&run->segments_live)
		       ? segments_find(run, KIND_SYSTEM_V, 0, (uint64_t)id)
		       : NULL;
}

/* Made by this very call: nobody has anything in it. */
static bool is_new(int id)
{
	struct shmid_ds status;
	int before = errno;
	bool known = !syscall(SYS_shmctl, id, IPC_STAT, &status);

	errno = before;
	return known && status.shm_cpid == getpid() && !status.shm_nattch && !status.shm_atime;
}

static int move_in(const struct visit *visit, int id, uint64_t size, uint32_t flags)
{
	struct segment wanted = {.kind = KIND_SYSTEM_V, .id = (uint64_t)id};
	struct demand demand = {.size = size, .least = size, .room = size, .flags = flags};
	int failed, fd;

	if (segments_find(visit->run, KIND_SYSTEM_V, 0, (uint64_t)id) || !is_new(id))
		return 0;
	fd = region_open(O_RDWR);
	if (fd < 0)
		return fd;
	failed = segments_add(visit, fd, &wanted, &demand);
	call_close(fd);
	if (!failed)
		tell_placed(WHAT, size, segments_offset(visit->run, find(visit->run, id)));
	return failed;
}

static int provide_once(int id, uint64_t size, uint32_t flags)
{
	struct visit visit;
	int failed = segments_enter(&visit);

	if (failed)
		return failed;
	failed = move_in(&visit, id, size, flags);
	segments_leave(&visit);
	return failed;
}

static void provide(int id, uint64_t size, uint32_t flags)
{
	int failed = provide_once(id, size, flags);

	if (failed == -ENOMEM) {
		/* Memory of processes that have ended may still be there. */
		ask_to_collect();
		failed = provide_once(id, size, flags);
	}
	if (failed)
		left_outside(WHAT, size, -failed);
}

HOOK int shmget(key_t key, size_t size, int flags)
{
	int id = (int)syscall(SYS_shmget, key, size, flags);

	/* Whoever asks for huge pages of the kernel has what a region gives. */
	if (id >= 0 && settings() && size >= settings()->min_size && !(flags & SHM_HUGETLB) &&
	    (flags & IPC_CREAT || key == IPC_PRIVATE) && run_of_segments())
		provide(id, round_up(size, settings()->page),
			flags & SHM_NORESERVE ? MAP_NORESERVE : 0);
	return id;
}

static long attach_region(const struct segment *segment, uint64_t offset, const void *at, int flags)
{
	bool reading = flags & SHM_RDONLY;
	uintptr_t address = (uintptr_t)at;
	int prot = PROT_READ | (reading ? 0 : PROT_WRITE) | (flags & SHM_EXEC ? PROT_EXEC : 0);
	int map = MAP_SHARED;
	int fd = region_open(reading ? O_RDONLY : O_RDWR);
	long result;

	if (fd < 0)
		return fd;
	if (at && flags & SHM_RND)
		address -= address % settings()->page;
	if (at)
		map |= flags & SHM_REMAP ? MAP_FIXED : MAP_FIXED_NOREPLACE;
	result = region_window((void *)address, atomic_load(&segment->size), prot, map, fd, offset);
	call_close(fd);
	return result == -EEXIST ? -EINVAL : result;
}

/* A window, told before it is there. */
static long attach_window(struct run_header *run, const struct segment *segment, const void *at,
			  int flags, void *kernels)
{
	struct piece window = {
		.offset = segments_offset(run, segment),
		.segment = kernels,
		.range = (uint32_t)segment->range,
	};
	/* shmdt must find it. */
	struct entry *entry = windows_reserve(window.range);
	long result;

	if (!entry)
		return -ENOMEM;
	result = holdings_add(run, window.range);
	if (!result)
		result = attach_region(segment, window.offset, at, flags);
	if (is_error(result)) {
		windows_release(entry);
		ranges_let_go(window.range);
		return result;
	}
	window.start = (uintptr_t)result;
	window.end = window.start + atomic_load(&segment->size);
	if (flags & SHM_REMAP)
		detach_forget(window.start, window.end);
	windows_set(entry, &window);
	return result;
}

static long attach(struct run_header *run, const struct segment *segment, const void *at, int flags)
{
	/* As long as it is attached the kernel's segment exists, and with it the entry. */
	long kernels = call_shmat((int)segment->id, NULL, flags & ~(SHM_RND | SHM_REMAP));
	long result;

	if (is_error(kernels))
		return kernels;
	result = attach_window(run, segment, at, flags, (void *)kernels);
	if (is_error(result))
		syscall(SYS_shmdt, kernels);
	return result;
}

HOOK void *shmat(int id, const void *at, int flags)
{
	struct run_header *run = run_of_segments();
	struct segment *segment = find(run, id);

	if (!segment)
		return (void *)answer(call_shmat(id, at, flags));
	return (void *)answer(attach(run, segment, at, flags));
}

HOOK int shmdt(const void *at)
{
	struct piece window;

	/* The segment itself is detached when the window has gone. */
	if (settings() && windows_find((uintptr_t)at, &window) && window.segment &&
	    window.start == (uintptr_t)at)
		return (int)answer(detach_unmap(window.start, window.end - window.start));
	return (int)syscall(SYS_shmdt, at);
}

/* SPDX-License-Identifier: MIT */
/*
 * posix.c - which files of /dev/shm are segments in the region, and how they get there.
 *
 * A file is an ordinary one until it is mapped, or until memory is asked for it.  If it is large
 * enough then and nobody has put anything into it, the region has its bytes from that moment on.
 * The collector holds the file open, so that it sees when nobody can reach it any more.
 */
#define _GNU_SOURCE
#include "posix.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#define DIRECTORY "/dev/shm"
#define GIB ((uint64_t)1 << 30)

static dev_t device;

__attribute__((constructor)) static void look_at_directory(void)
{
	const struct settings *run = settings();
	struct statfs system;
	struct stat status;

	if (!run || !run->shm)
		return;
	/* Somewhere it may be a directory of a disk, with other files on the same device. */
	if (!statfs(DIRECTORY, &system) && system.f_type == TMPFS_MAGIC && !stat(DIRECTORY, &status))
		device = status.st_dev;
}

bool posix_is_file(int fd, struct stat *status)
{
	return device && fd >= 0 && !call_fstat(fd, status) && S_ISREG(status->st_mode) &&
	       status->st_dev == device;
}

bool posix_any(void)
{
	struct run_header *run = device ? run_file_if_mapped() : NULL;

	return run && atomic_load(&run->segments_live);
}

struct segment *posix_of(const struct stat *status)
{
	if (!posix_any() || status->st_dev != device)
		return NULL;
	return segments_find(run_file_if_mapped(), KIND_POSIX, status->st_dev, status->st_ino);
}

struct segment *posix_find(int fd, struct stat *status)
{
	return posix_any() && posix_is_file(fd, status) ? posix_of(status) : NULL;
}

bool posix_is_still_open(int fd, const struct segment *segment)
{
	struct stat status;

	return posix_find(fd, &status) == segment;
}

/* Room to grow: address space of the region costs nothing, but is not without end. */
static uint64_t room_for(uint64_t size)
{
	if (size <= GIB / 64)
		return GIB / 4;
	if (size <= 4 * GIB)
		return size * 16;
	return size < 32 * GIB ? 64 * GIB : size * 2;
}

/* Nobody has put anything there, and nobody has it mapped there. */
static bool may_move(struct run_header *run, const struct stat *status)
{
	return !status->st_blocks &&
	       !segments_is_left_alone(run, status->st_dev, status->st_ino);
}

static int move_in(const struct visit *visit, const struct stat *status, uint64_t end)
{
	struct segment wanted = {
		.kind = KIND_POSIX,
		.device = status->st_dev,
		.id = status->st_ino,
	};
	uint64_t size = round_up((uint64_t)status->st_size, settings()->page);
	uint64_t least = size > end ? size : end;
	struct demand demand = {.size = size, .least = least, .room = room_for(least)};
	int failed, fd = region_open(O_RDWR);

	if (fd < 0)
		return fd;
	failed = segments_add(visit, fd, &wanted, &demand);
	call_close(fd);
	if (!failed)
		tell_placed(POSIX_WHAT, size,
			    segments_offset(visit->run, segments_find(visit->run, KIND_POSIX,
								      wanted.device, wanted.id)));
	return failed;
}

/* If it cannot live in the region it stays in /dev/shm for everybody. */
static int place_once(int fd, uint64_t end, bool last_try)
{
	struct visit visit;
	struct stat status;
	int failed = segments_enter(&visit);

	if (failed)
		return failed;
	failed = (int)call_fstat(fd, &status);
	if (!failed && !segments_find(visit.run, KIND_POSIX, status.st_dev, status.st_ino))
		failed = may_move(visit.run, &status) ? move_in(&visit, &status, end) : -EBUSY;
	if (failed && (last_try || failed != -ENOMEM))
		segments_leave_alone(visit.run, status.st_dev, status.st_ino);
	segments_leave(&visit);
	return failed;
}

static int place(int fd, uint64_t end)
{
	int failed = ask_to_hold(fd);

	if (failed)
		return failed;
	failed = place_once(fd, end, false);
	if (failed != -ENOMEM)
		return failed;
	/* Memory of processes that have ended may still be there. */
	ask_to_collect();
	return place_once(fd, end, true);
}

struct segment *posix_find_or_place(int fd, const struct stat *status, uint64_t end)
{
	uint64_t size = (uint64_t)status->st_size;
	struct segment *segment = posix_of(status);
	struct run_header *run;
	int failed = 0;

	if (segment)
		return segment;
	run = run_file(&failed);
	if (run && (size > end ? size : end) >= settings()->min_size && !status->st_blocks &&
	    !segments_is_left_alone(run, status->st_dev, status->st_ino)) {
		failed = place(fd, end);
		if (!failed)
			return posix_of(status);
		/* Another process was faster to put something there. */
		if (failed != -EBUSY)
			left_outside(POSIX_WHAT, size > end ? size : end, -failed);
	}
	if (run)
		segments_leave_alone(run, status->st_dev, status->st_ino);
	return NULL;
}

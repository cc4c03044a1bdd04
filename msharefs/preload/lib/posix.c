/* SPDX-License-Identifier: MIT */
/*
 * posix.c - POSIX segments (shm_open) of a run with --shm.
 *
 * The file in /dev/shm stays what the segment is known by: its name, size, owner, mode and
 * life are the kernel's affair.  Only its memory is elsewhere: a range of the region, taken
 * when the new file gets its size, and what mmap of any descriptor of that file attaches.
 * read(2) and write(2) on the descriptor do not see it.
 */
#define _GNU_SOURCE
#include "segments.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define DIRECTORY "/dev/shm"
#define WHAT "POSIX shared memory"

static dev_t device;
static int (*next_shm_open)(const char *, int, mode_t);
static int (*next_shm_unlink)(const char *);

__attribute__((constructor)) static void look_at_directory(void)
{
	const struct settings *run = settings();
	struct statfs system;
	struct stat status;

	if (!run || !run->shm)
		return;
	next_shm_open = (int (*)(const char *, int, mode_t))dlsym(RTLD_NEXT, "shm_open");
	next_shm_unlink = (int (*)(const char *))dlsym(RTLD_NEXT, "shm_unlink");
	/* Somewhere it may be a directory of a disk, with other files on the same device. */
	if (!statfs(DIRECTORY, &system) && system.f_type == TMPFS_MAGIC && !stat(DIRECTORY, &status))
		device = status.st_dev;
}

static bool is_segment(int fd, struct stat *status)
{
	return settings() && settings()->shm && fd >= 0 && device && !call_fstat(fd, status) &&
	       S_ISREG(status->st_mode) && status->st_dev == device;
}

/* Nobody has put anything there. */
static bool is_new(const struct stat *status)
{
	return !status->st_size && !status->st_blocks;
}

/* Whether the region may hold its memory, as far as the file itself tells. */
static bool may_be_ours(const struct stat *status)
{
	return !status->st_blocks && (uint64_t)status->st_size >= settings()->min_size;
}

static int grow(const struct visit *visit, struct segment *segment, uint64_t size)
{
	uint64_t more = size - segment->size;
	int failed;

	if (!more)
		return 0;
	failed = region_extend(visit->fd, segment->offset + segment->size, more);
	if (failed == -EEXIST && !segment->size)
		failed = region_create(visit->fd, size, 0, &segment->offset);
	if (!failed)
		segment->size = size;
	/* Another range lies behind it. */
	return failed == -EEXIST ? -ENOMEM : failed;
}

static int shrink(const struct visit *visit, struct segment *segment, uint64_t size)
{
	uint64_t less = segment->size - size;
	int failed = less ? region_unmap(visit->fd, segment->offset + size, less) : 0;

	if (!failed)
		segment->size = size;
	return failed;
}

static int move_in(const struct visit *visit, ino_t inode, uint64_t size)
{
	uint64_t offset;
	int failed = region_create(visit->fd, size, 0, &offset);

	if (failed)
		return failed;
	failed = segments_add(visit, KIND_POSIX, inode, offset, size);
	if (failed)
		region_unmap(visit->fd, offset, size);
	else
		say_placed(WHAT, size, offset);
	return failed;
}

/* Memory for the new size.  *ours tells whether the segment is in the region, so that a
 * failure is one of the program's call. */
static int provide(const struct visit *visit, const struct stat *status, uint64_t size, bool *ours)
{
	struct segment *segment = segments_find(visit, KIND_POSIX, status->st_ino);
	uint64_t pages = round_up(size, settings()->page);

	*ours = segment;
	if (segment)
		return pages < segment->size ? shrink(visit, segment, pages)
					     : grow(visit, segment, pages);
	if (size < settings()->min_size || !is_new(status) ||
	    segments_find(visit, KIND_LEFT, status->st_ino))
		return 0;
	return move_in(visit, status->st_ino, pages);
}

/* 0, or the -errno that the program's call ends with. */
static int resize(const struct stat *status, uint64_t size)
{
	bool collected = false, ours = false;
	struct visit visit;
	int failed;

	for (;;) {
		failed = segments_enter(&visit);
		if (!failed) {
			failed = provide(&visit, status, size, &ours);
			segments_leave(&visit);
		}
		if (failed != -ENOMEM || collected)
			break;
		tell_collector(TELL_COLLECT, 0);
		collected = true;
	}
	if (!failed || ours)
		return failed;
	if (size >= settings()->min_size && is_new(status))
		left_outside(WHAT, size, -failed);
	return 0;
}

HOOK int ftruncate(int fd, off_t size)
{
	struct stat status;
	int failed;

	if (size >= 0 && is_segment(fd, &status)) {
		failed = resize(&status, (uint64_t)size);
		if (failed)
			return (int)answer(failed);
	}
	return (int)answer(call_ftruncate(fd, (uint64_t)size));
}

HOOK int ftruncate64(int fd, off64_t size) __attribute__((alias("ftruncate")));

/* Whether the file's memory is in the region, now that `end` bytes of it are wanted. */
static long allocate_segment(int fd, const struct stat *status, uint64_t end, bool *ours)
{
	struct visit visit;
	int failed = 0;

	*ours = false;
	if (end > (uint64_t)status->st_size) {
		failed = resize(status, end);
		if (failed) {
			*ours = true;
			return failed;
		}
	}
	if (!segments_enter(&visit)) {
		*ours = segments_find(&visit, KIND_POSIX, status->st_ino);
		segments_leave(&visit);
	}
	/* Its size, but no memory of its own. */
	if (*ours && end > (uint64_t)status->st_size)
		return call_ftruncate(fd, end);
	return 0;
}

static long allocate(int fd, int mode, off_t offset, off_t size)
{
	int before = errno;
	struct stat status;
	long result;
	bool ours;

	if (offset >= 0 && size > 0 && size < INT64_MAX - offset && is_segment(fd, &status)) {
		result = mode ? 0 : allocate_segment(fd, &status, (uint64_t)(offset + size), &ours);
		if (!mode && ours)
			return result;
		if (mode && may_be_ours(&status))
			return -EOPNOTSUPP;
	}
	result = syscall(SYS_fallocate, fd, mode, offset, size) ? -errno : 0;
	errno = before;
	return result;
}

HOOK int fallocate(int fd, int mode, off_t offset, off_t size)
{
	return (int)answer(allocate(fd, mode, offset, size));
}

HOOK int fallocate64(int fd, int mode, off64_t offset, off64_t size)
	__attribute__((alias("fallocate")));

HOOK int posix_fallocate(int fd, off_t offset, off_t size)
{
	return (int)-allocate(fd, 0, offset, size);
}

HOOK int posix_fallocate64(int fd, off64_t offset, off64_t size)
	__attribute__((alias("posix_fallocate")));

HOOK int shm_open(const char *name, int flags, mode_t mode)
{
	struct segment *segment;
	struct stat status;
	struct visit visit;
	int fd;

	if (!next_shm_open)
		next_shm_open = (int (*)(const char *, int, mode_t))dlsym(RTLD_NEXT, "shm_open");
	if (!next_shm_open)
		return (int)answer(-ENOSYS);
	fd = next_shm_open(name, flags, mode);
	if (fd >= 0 && flags & O_TRUNC && is_segment(fd, &status) && !segments_enter(&visit)) {
		segment = segments_find(&visit, KIND_POSIX, status.st_ino);
		if (segment)
			shrink(&visit, segment, 0);
		segments_leave(&visit);
	}
	return fd;
}

HOOK int shm_unlink(const char *name)
{
	const struct settings *run = settings();
	int result;

	if (!next_shm_unlink)
		next_shm_unlink = (int (*)(const char *))dlsym(RTLD_NEXT, "shm_unlink");
	if (!next_shm_unlink)
		return (int)answer(-ENOSYS);
	result = next_shm_unlink(name);
	if (!result && run && run->shm)
		tell_collector(TELL_HINT, 0);
	return result;
}

/* What the kernel refuses it refuses for this file, not for the region. */
static bool kernel_refuses(int fd, int prot, int flags, uint64_t offset)
{
	int before = errno;
	int access = fcntl(fd, F_GETFL) & O_ACCMODE;

	errno = before;
	return access == O_WRONLY || offset % settings()->page ||
	       (access == O_RDONLY && prot & PROT_WRITE && (flags & MAP_TYPE) != MAP_PRIVATE);
}

/* A descriptor for reading gives windows that no mprotect makes writable. */
static long attach(const struct visit *visit, int fd, const struct segment *segment, void *at,
		   size_t size, int prot, int flags, uint64_t offset)
{
	int before = errno;
	bool reading = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
	int own;
	long result;

	errno = before;
	if (size > SIZE_MAX / 2 || offset > INT64_MAX / 2 ||
	    offset + size > segment->size + GAP)
		return -ENXIO;
	own = reading ? region_open(O_RDONLY) : visit->fd;
	if (own < 0)
		return own;
	result = call_mmap(at, size, prot, flags, own, segment->offset + offset);
	if (reading)
		call_close(own);
	return result;
}

static void note_window(uintptr_t start, size_t size, int flags, uint64_t range, uint64_t offset)
{
	struct piece piece = {
		.start = start,
		.end = start + round_up(size, settings()->page),
		.offset = range + offset,
	};

	if (flags & MAP_FIXED)
		windows_forget(piece.start, piece.end);
	windows_add(&piece);
	tell_collector(TELL_PLACED, range);
}

bool shm_mmap(void *at, size_t size, int prot, int flags, int fd, uint64_t offset, long *result)
{
	struct segment *segment;
	struct stat status;
	struct visit visit;
	uint64_t range = 0;
	bool ours;

	if (!is_segment(fd, &status) || kernel_refuses(fd, prot, flags, offset))
		return false;
	*result = segments_enter(&visit);
	if (*result) {
		/* Memory of its own beside that of the others would be worse than none. */
		if (may_be_ours(&status))
			left_outside(WHAT, (uint64_t)status.st_size, (int)-*result);
		return may_be_ours(&status);
	}
	segment = segments_find(&visit, KIND_POSIX, status.st_ino);
	ours = segment;
	if (ours) {
		range = segment->offset;
		*result = attach(&visit, fd, segment, at, size, prot, flags, offset);
	} else if (size >= settings()->min_size && is_new(&status) &&
		 !segments_find(&visit, KIND_LEFT, status.st_ino))
		segments_add(&visit, KIND_LEFT, status.st_ino, 0, 0);
	segments_leave(&visit);
	if (ours && !is_error(*result))
		note_window((uintptr_t)*result, size, flags, range, offset);
	return ours;
}

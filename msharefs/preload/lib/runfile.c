/* SPDX-License-Identifier: MIT */
/*
 * runfile.c - mapping, opening and locking the run's own file.
 */
#define _GNU_SOURCE
#include "runfile.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>

/* It is had for as long as a request to the mount takes. */
#define PATIENCE_SECONDS 2

/* A forked child has the mapping too, and exec starts without one. */
static _Atomic(struct run_header *) mapped;

int run_file_open(void)
{
	const struct settings *run = settings();
	long fd = call_open(run->run_file, O_RDWR | O_NOFOLLOW);
	struct stat status;
	long failed;

	if (fd < 0)
		return (int)fd;
	failed = call_fstat((int)fd, &status);
	/* Anybody may make a file in /dev/shm: only the very one that mshare run made will do. */
	if (!failed && (status.st_dev != run->run_device || status.st_ino != run->run_inode))
		failed = -ESTALE;
	if (failed) {
		call_close((int)fd);
		return (int)failed;
	}
	return (int)fd;
}

static long map(int fd)
{
	long at = call_mmap(NULL, settings()->page, PROT_READ, MAP_SHARED, fd, 0);
	uint64_t size;

	if (is_error(at))
		return at;
	size = ((struct run_header *)at)->magic == RUN_MAGIC ? ((struct run_header *)at)->size : 0;
	call_munmap((void *)at, settings()->page);
	if (!size)
		return -EPROTO;
	return call_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

struct run_header *run_file_if_mapped(void)
{
	return atomic_load_explicit(&mapped, memory_order_acquire);
}

struct run_header *run_file(int *error)
{
	struct run_header *run = run_file_if_mapped(), *before = NULL;
	long at;
	int fd;

	if (run)
		return run;
	fd = run_file_open();
	at = fd < 0 ? fd : map(fd);
	if (fd >= 0)
		call_close(fd);
	if (is_error(at)) {
		*error = (int)at;
		return NULL;
	}
	run = (struct run_header *)at;
	if (atomic_compare_exchange_strong(&mapped, &before, run))
		return run;
	/* Another thread was faster. */
	call_munmap(run, run->size);
	return before;
}

static int locked(struct run_header *run, int failed)
{
	/* Every change of the tables is one store, so there is nothing to mend. */
	if (failed == EOWNERDEAD)
		failed = pthread_mutex_consistent(&run->lock);
	return -failed;
}

int run_file_lock_soon(struct run_header *run)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_SECONDS;
	return locked(run, pthread_mutex_timedlock(&run->lock, &until));
}

int run_file_lock(struct run_header *run)
{
	return locked(run, pthread_mutex_lock(&run->lock));
}

void run_file_unlock(struct run_header *run)
{
	pthread_mutex_unlock(&run->lock);
}

int run_file_extend(uint64_t table_at, uint64_t size, uint64_t count, _Atomic uint64_t *there)
{
	uint64_t step = settings()->page / size, before = atomic_load(there);
	long failed;
	int fd;

	if (count <= before)
		return 0;
	fd = run_file_open();
	if (fd < 0)
		return fd;
	failed = call_fallocate(fd, 0, table_at, (before + step) * size);
	call_close(fd);
	if (!failed)
		run_file_raise(there, before + step);
	return (int)failed;
}

void run_file_raise(_Atomic uint64_t *value, uint64_t least)
{
	uint64_t now = atomic_load(value);

	while (now < least && !atomic_compare_exchange_weak(value, &now, least))
		;
}

/* Now, and not in the middle of the program's first large mmap, whose addresses it may have
 * prepared. */
__attribute__((constructor)) static void map_early(void)
{
	int error;

	if (settings())
		run_file(&error);
}

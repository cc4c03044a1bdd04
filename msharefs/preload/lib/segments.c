/* SPDX-License-Identifier: MIT */
/*
 * segments.c - entering, searching and leaving the table of segments.
 */
#define _GNU_SOURCE
#include "segments.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SEGMENTS (TABLE_SIZE / sizeof(struct segment))

/* _NSIG / 8 of the kernel; the C library's sigset_t is larger. */
#define KERNEL_SIGSET 8

/* An open file description's lock (fcntl(2)): it is the visit's, not the process's, so that
 * it also keeps the threads of one process apart. */
static int lock(int fd, short type)
{
	struct flock lock = {
		.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = (off_t)settings()->table,
		.l_len = 1,
	};
	int before = errno;
	int failed = 0;

	while (syscall(SYS_fcntl, fd, F_OFD_SETLKW, &lock)) {
		if (errno == EINTR)
			continue;
		failed = -errno;
		break;
	}
	errno = before;
	return failed;
}

static int attach(struct visit *visit)
{
	long at;
	int failed;

	visit->fd = region_open(O_RDWR);
	if (visit->fd < 0)
		return visit->fd;
	failed = lock(visit->fd, F_WRLCK);
	if (!failed) {
		at = call_mmap(NULL, TABLE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, visit->fd,
			       settings()->table);
		visit->segments = (struct segment *)at;
		if (!is_error(at))
			return 0;
		failed = (int)at;
	}
	call_close(visit->fd);
	return failed;
}

int segments_enter(struct visit *visit)
{
	sigset_t all;
	int failed;

	sigfillset(&all);
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, &visit->mask, KERNEL_SIGSET);
	failed = attach(visit);
	if (failed)
		syscall(SYS_rt_sigprocmask, SIG_SETMASK, &visit->mask, NULL, KERNEL_SIGSET);
	return failed;
}

void segments_leave(struct visit *visit)
{
	call_munmap(visit->segments, TABLE_SIZE);
	/* A child forked meanwhile has the descriptor too: closing ours would not unlock. */
	lock(visit->fd, F_UNLCK);
	call_close(visit->fd);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &visit->mask, NULL, KERNEL_SIGSET);
}

struct segment *segments_find(const struct visit *visit, enum kind kind, uint64_t id)
{
	struct segment *segment;

	for (segment = visit->segments; segment < visit->segments + SEGMENTS; segment++)
		if (segment->kind == (uint64_t)kind && (kind == KIND_NONE || segment->id == id))
			return segment;
	return NULL;
}

int segments_add(const struct visit *visit, enum kind kind, uint64_t id, uint64_t offset,
		 uint64_t size)
{
	struct segment *segment = segments_find(visit, KIND_NONE, 0);

	if (!segment)
		return -ENOSPC;
	segment->id = id;
	segment->offset = offset;
	segment->size = size;
	/* Last: a process that is killed leaves the entry empty or whole. */
	__atomic_store_n(&segment->kind, (uint64_t)kind, __ATOMIC_RELEASE);
	return 0;
}

void segments_remove(struct segment *segment)
{
	__atomic_store_n(&segment->kind, (uint64_t)KIND_NONE, __ATOMIC_RELEASE);
}

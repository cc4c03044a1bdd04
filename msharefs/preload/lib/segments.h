/* SPDX-License-Identifier: MIT */
/*
 * segments.h - which segments with a name live in the region (mshare run --shm).
 *
 * A POSIX or System V segment may exist with nobody attached, so the kernel's list of
 * mappings does not tell whether its range is in use.  The table does: a table in the
 * region itself, at the offset that mshare run chose, behind a lock that the
 * kernel takes back from a process that dies.  segments.py reads and clears it, by the
 * same layout.
 */
#ifndef MSHAREFS_REGISTRY_H
#define MSHAREFS_REGISTRY_H

#include "preload.h"

#include <signal.h>

#define TABLE_SIZE 65536

enum kind {
	KIND_NONE = 0,
	KIND_POSIX = 1,  /* id is the inode number in /dev/shm */
	KIND_SYSTEM_V = 2, /* id is that of shmget(2) */
	/* A POSIX segment that was mapped before it had a size, or had bytes before it had its
	 * size: it stays in /dev/shm. */
	KIND_LEFT = 3,
};

struct segment {
	uint64_t kind;
	uint64_t id;
	uint64_t offset; /* in the region */
	uint64_t size;   /* whole pages; 0 while a POSIX segment is cut to nothing */
	uint64_t unused[4];
};

/* A visit holds the lock and the descriptor, with every signal blocked: a handler that
 * maps must not wait for its own thread. */
struct visit {
	int fd;
	struct segment *segments;
	sigset_t mask;
};

int segments_enter(struct visit *visit);
void segments_leave(struct visit *visit);
/* KIND_NONE finds an empty entry. */
struct segment *segments_find(const struct visit *visit, enum kind kind, uint64_t id);

/* A new entry; -ENOSPC if all are taken. */
int segments_add(const struct visit *visit, enum kind kind, uint64_t id, uint64_t offset,
		 uint64_t size);
void segments_remove(struct segment *segment);

#endif

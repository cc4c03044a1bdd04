/* SPDX-License-Identifier: MIT */
/*
 * segments.h - which segments with a name live in the region (mshare run --shm).
 *
 * A POSIX or System V segment may exist with nobody attached, so its range has an entry here
 * as well, by what the kernel knows the segment by.  segments.py reads it and removes the
 * entries of segments that are gone.
 */
#ifndef MSHAREFS_SEGMENTS_H
#define MSHAREFS_SEGMENTS_H

#include "ranges.h"

enum kind {
	KIND_NONE = 0,
	KIND_POSIX = 1,    /* device and inode of the file in /dev/shm */
	KIND_SYSTEM_V = 2, /* the id of shmget(2) */
};

struct segment {
	_Atomic uint64_t kind;
	uint64_t device;
	uint64_t id;
	uint64_t range;        /* number of its range, whose size is the room for it to grow */
	_Atomic uint64_t size; /* so much memory is there from the start of the range: whole pages */
	uint64_t unused[3];
};

/* Inside of it the entries and their memory do not change but by this thread.  No handler of a
 * signal runs, so that none waits for its own thread. */
struct visit {
	struct run_header *run;
	sigset_t mask;
};

int segments_enter(struct visit *visit);
void segments_leave(struct visit *visit);

/* An entry, or NULL; no lock is needed.  It stays while the caller has the segment open. */
struct segment *segments_find(struct run_header *run, enum kind kind, uint64_t device, uint64_t id);

/* The one that a range belongs to, or NULL. */
struct segment *segments_of_range(struct run_header *run, uint32_t range);

/* How many bytes of memory all of them have. */
uint64_t segments_bytes(struct run_header *run);

/* Where it begins in the region, and how far it may grow. */
uint64_t segments_offset(struct run_header *run, const struct segment *segment);
uint64_t segments_room(struct run_header *run, const struct segment *segment);

/* What a new entry shall have. */
struct demand {
	uint64_t size;  /* bytes with memory, whole pages */
	uint64_t least; /* bytes of room, at least ... */
	uint64_t room;  /* ... and if that much is free */
	uint32_t flags; /* for MSHAREFS_CREATE_MAPPING */
};

/* A segment in the region; of `wanted` counts what the kernel knows it by.  0 or -errno. */
int segments_add(const struct visit *visit, int region, const struct segment *wanted,
		 const struct demand *demand);

/* A POSIX segment that is mapped in /dev/shm stays there, whatever becomes of it.  Of the last
 * few thousand that is known. */
void segments_leave_alone(struct run_header *run, uint64_t device, uint64_t id);
bool segments_is_left_alone(struct run_header *run, uint64_t device, uint64_t id);

#endif

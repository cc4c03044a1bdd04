/* SPDX-License-Identifier: MIT */
/*
 * runfile.h - the file that the processes of one run share, and its layout.
 *
 * mshare run makes it in /dev/shm.  It has two uses.  Its bytes are tables: which ranges of
 * the region there are, and which of them a process may have.  And the kernel keeps locks on
 * it, far beyond its end: a holder's lock lives exactly as long as the address spaces that
 * share the holder (holdings.c).  run_file.py has the same layout.
 *
 * A page of it is touched only after it was allocated, so that a full /dev/shm is an error
 * and no SIGBUS.
 */
#ifndef MSHAREFS_RUNFILE_H
#define MSHAREFS_RUNFILE_H

#include "preload.h"

#include <pthread.h>
#include <stdatomic.h>

#define RUN_MAGIC 0x3430676e75726d73 /* "smrung04" */
#define RUN_HINTS 256

/* The lock of holder N is on the byte HOLDER_LOCKS + N. */
#define HOLDER_LOCKS ((off_t)1 << 60)

struct run_header {
	uint64_t magic;
	_Atomic uint64_t device; /* of the region, which may be mounted anew */
	_Atomic uint64_t inode;
	/* What is known to be free: the next range may begin at the upper half, and something
	 * is mapped from the lower half on.  Both in units of HUGE_PAGE. */
	_Atomic uint64_t room;
	/* Segments with names have the region from here on, and all else lies below it.  In
	 * units of HUGE_PAGE. */
	_Atomic uint64_t floor;
	_Atomic uint64_t next_segment; /* below here a place for the next one is looked for */
	uint64_t region_size;
	uint64_t ipc_namespace;        /* the one whose System V segments may live here */
	uint64_t holders;     /* how many there may be of each */
	uint64_t ranges;
	uint64_t segments;
	uint64_t left;
	uint64_t holders_at;  /* where in the file each table is */
	uint64_t ranges_at;
	uint64_t segments_at;
	uint64_t left_at;
	uint64_t records_at;
	uint64_t record_size;
	uint64_t size;
	_Atomic uint64_t holders_used; /* none at or above was ever used */
	_Atomic uint64_t ranges_used;
	_Atomic uint64_t ranges_there; /* so many have memory of the file */
	_Atomic uint64_t segments_used;
	_Atomic uint64_t segments_there;
	_Atomic uint64_t segments_live; /* how many there are; most programs have none */
	/* How often a process has gone over from one holder to another.  Who looks through all of
	 * them has seen everything only if this has not changed meanwhile. */
	_Atomic uint64_t moves;
	_Atomic uint64_t direct; /* whether the mount gives the region's memory itself */
	_Atomic uint64_t peak;   /* the most bytes that lived in the region, as far as was seen */
	/* Ranges that may be free now, by number; a ring, in which the newest replaces the
	 * oldest. */
	_Atomic uint64_t hints_put;
	_Atomic uint32_t hints[RUN_HINTS];
	/* Held by whoever gives back or changes segments.  Robust: a killed process does not leave
	 * it locked, and a forked child does not inherit it. */
	pthread_mutex_t lock;
};

/* The mapped file, or NULL with -errno in *error. */
struct run_header *run_file(int *error);

/* The mapped file, if this process has used it before. */
struct run_header *run_file_if_mapped(void);

/* A descriptor of its own, whose locks are nobody else's; or -errno. */
int run_file_open(void);

/* The lock; or not, if whoever has it does not give it back soon.  0 or -errno. */
int run_file_lock(struct run_header *run);
int run_file_lock_soon(struct run_header *run);
void run_file_unlock(struct run_header *run);

/* Give a table memory for `count` entries of `size` bytes, if *there says that it has not.
 * 0 or -errno. */
int run_file_extend(uint64_t table_at, uint64_t size, uint64_t count, _Atomic uint64_t *there);

/* Make *value at least that much. */
void run_file_raise(_Atomic uint64_t *value, uint64_t least);

static inline void *run_table(struct run_header *run, uint64_t offset)
{
	return (char *)run + offset;
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * ranges.h - the ranges of the region that the run has taken, by number.
 */
#ifndef MSHAREFS_RANGES_H
#define MSHAREFS_RANGES_H

#include "runfile.h"

/* One entry of the table of ranges.  Offsets are multiples of HUGE_PAGE, so that the low bits
 * are free. */
struct range {
	_Atomic uint64_t offset; /* with the bits below; 0 if the entry is free */
	_Atomic uint64_t size;   /* bytes, whole pages */
};

/* Somebody has the entry.  Alone, or with RANGE_SEGMENT: there is memory. */
#define RANGE_USED ((uint64_t)1)
/* Offset and size do not count yet. */
#define RANGE_BLANK ((uint64_t)2)
/* Told, but perhaps another one has the place: nothing is mapped there. */
#define RANGE_TOLD ((uint64_t)4)
/* The place is its own; whether memory is there already is not known. */
#define RANGE_FILLING ((uint64_t)8)
/* It belongs to a segment with a name, which may exist with nobody attached. */
#define RANGE_SEGMENT ((uint64_t)16)
#define RANGE_FLAGS (HUGE_PAGE - 1)

struct range *range_of(struct run_header *run, uint32_t number);

/* An entry that tells offset and size with these flags.  0, or -ENOSR if all are taken. */
int ranges_tell(struct run_header *run, uint64_t offset, uint64_t size, uint64_t flags,
		uint32_t *number);

/* A window of fresh memory in a range of its own; it is in the table of windows then.  The
 * address, or -errno; *offset is where it is in the region. */
long ranges_place(const struct window *window, uint64_t *offset);

/* How many bytes have memory, without that of segments. */
uint64_t ranges_bytes(struct run_header *run);

/* How far a window that ends at `end` in the region may grow there.  Shared anonymous memory does
 * not grow with its window; a window that did would reach into what lies behind it. */
uint64_t ranges_room_behind(uint32_t range, uint64_t end);

/* Windows of this process on the range have gone.  Give it back if it was the last one. */
void ranges_let_go(uint32_t range);

#endif

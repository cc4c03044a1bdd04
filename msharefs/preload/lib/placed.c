/* SPDX-License-Identifier: MIT */
/*
 * placed.c - what is told with -v of memory that was put into the region.
 *
 * How much there was at most is seen here and not by the collector alone: what a program gives
 * back by itself may come and go between two of its looks.
 */
#define _GNU_SOURCE
#include "segments.h"

void tell_placed(const char *what, uint64_t size, uint64_t offset)
{
	struct run_header *run = run_file_if_mapped();

	if (!settings()->verbose)
		return;
	run_file_raise(&run->peak, ranges_bytes(run) + segments_bytes(run));
	say_placed(what, size, offset);
}

/* SPDX-License-Identifier: MIT */
/*
 * holdings.h - which ranges of the region a process may have.
 */
#ifndef MSHAREFS_HOLDINGS_H
#define MSHAREFS_HOLDINGS_H

#include "runfile.h"

/* This process has, or is about to have, a window on the range.  0 or -errno; if it fails the
 * range must not be attached. */
int holdings_add(struct run_header *run, uint32_t range);

/* The last window of this process on the range has gone.  False if others still come or go, or
 * if that could not be recorded: then it is found out later. */
bool holdings_drop(struct run_header *run, uint32_t range);

/* Whether any process of the run may have the range. */
bool holdings_any(struct run_header *run, uint32_t range);

#endif

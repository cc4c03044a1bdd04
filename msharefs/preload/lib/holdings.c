/* SPDX-License-Identifier: MIT */
/*
 * holdings.c - which ranges this process may have, told so that the kernel keeps it true.
 *
 * A holder is a record in the run's file: a bit for each range that some process may have.
 * It is alive as long as somebody has its lock, a lock of an open file (fcntl(2), F_OFD_SETLK)
 * that nothing but one mapped page of that file keeps open: the witness.  fork copies that
 * page's mapping and so shares the holder; exec, exit and kill take it away with everything else
 * that the process had mapped.  So a holder is alive exactly as long as an address space that
 * may have one of its ranges, whatever process that is, whoever may see it, and nobody has to
 * look for it.
 *
 * A bit may be set at any time, and is too much at worst.  It may be cleared only by the one
 * process that has the holder.  Whether others share it shows when the witness is replaced by
 * one of a new open file: if the old lock is still there then, some child has it, and this
 * process goes over to a holder of its own, with the bits of the windows that it has.
 */
#define _GNU_SOURCE
#include "holdings.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define NOBODY UINT32_MAX
#define BITS 64

/* How long a thread waits for another one of its process, which works here for microseconds. */
#define YIELDS 1000
#define NAPS 2000
#define NAP_NS 1000000

/* How often it is looked again because a holder may have been missed. */
#define LOOKS 16

/* A page that a forked child finds full of zeros (MADV_WIPEONFORK): so the lock is free there,
 * and the child knows that the holder is its parent's. */
struct own {
	atomic_int locked;
	atomic_int settled; /* the holder is this process's, with every bit that it should have */
};

static _Atomic(void *) own_page;
static _Atomic(void *) witness;
static _Atomic uint32_t holder = NOBODY;
static _Atomic uint32_t tokens;

static struct own *own(void)
{
	return atomic_load(&own_page);
}

static _Atomic uint64_t *bits_of(struct run_header *run, uint32_t number)
{
	return run_table(run, run->records_at + number * run->record_size);
}

static _Atomic uint64_t *state_of(struct run_header *run, uint32_t number)
{
	return (_Atomic uint64_t *)run_table(run, run->holders_at) + number;
}

static long lock_call(int fd, int command, short type, uint32_t number, struct flock *lock)
{
	memset(lock, 0, sizeof(*lock));
	lock->l_type = type;
	lock->l_whence = SEEK_SET;
	lock->l_start = HOLDER_LOCKS + number;
	lock->l_len = 1;
	return call_fcntl(fd, command, lock);
}

static long take_lock(int fd, short type, uint32_t number)
{
	struct flock lock;

	return lock_call(fd, F_OFD_SETLK, type, number, &lock);
}

/* Whether any other open file has the holder's lock. */
static bool is_shared(int fd, uint32_t number)
{
	struct flock lock;

	return lock_call(fd, F_OFD_GETLK, F_WRLCK, number, &lock) || lock.l_type != F_UNLCK;
}

static void *page_for(_Atomic(void *) *place, int prot)
{
	void *expected = NULL;
	long at = call_mmap(NULL, settings()->page, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (is_error(at))
		return NULL;
	if (prot != PROT_NONE && call_madvise((void *)at, settings()->page, MADV_WIPEONFORK))
		return NULL;
	if (atomic_compare_exchange_strong(place, &expected, (void *)at))
		return (void *)at;
	call_munmap((void *)at, settings()->page);
	return expected;
}

static bool wait_for(atomic_int *lock)
{
	struct timespec nap = {0, NAP_NS};
	unsigned int i;

	for (i = 0; i < YIELDS + NAPS; i++) {
		int expected = 0;

		if (atomic_compare_exchange_strong(lock, &expected, 1))
			return true;
		if (i < YIELDS)
			sched_yield();
		else
			nanosleep(&nap, NULL);
	}
	return false;
}

static bool have_pages(void)
{
	return (own() || page_for(&own_page, PROT_READ | PROT_WRITE)) &&
	       (atomic_load(&witness) || page_for(&witness, PROT_NONE));
}

/* As early as the run's file, and for the same reason. */
__attribute__((constructor)) static void make_pages(void)
{
	if (settings())
		have_pages();
}

/* One thread of the process at a time.  With signals blocked, so that no handler waits for its
 * own thread. */
static int enter(sigset_t *before)
{
	if (!have_pages())
		return -ENOMEM;
	block_signals(before);
	if (wait_for(&own()->locked))
		return 0;
	restore_signals(before);
	return -EBUSY;
}

static void leave(const sigset_t *before)
{
	atomic_store(&own()->locked, 0);
	restore_signals(before);
}

/* From now on the open file lives as long as the mapping, here and in children. */
static long show(int fd)
{
	long at = call_mmap(atomic_load(&witness), settings()->page, PROT_NONE,
			    MAP_SHARED | MAP_FIXED, fd, 0);

	return is_error(at) ? at : 0;
}

static void clear(struct run_header *run, uint32_t number)
{
	_Atomic uint64_t *bits = bits_of(run, number);
	uint64_t i;

	for (i = 0; i < run->record_size / sizeof(*bits); i++)
		if (atomic_load_explicit(&bits[i], memory_order_relaxed))
			atomic_store(&bits[i], 0);
}

/* A holder that is left by its last process is free for another one. */
static void retire(struct run_header *run, int fd, uint32_t number)
{
	if (number == NOBODY)
		return;
	if (!take_lock(fd, F_WRLCK, number)) {
		clear(run, number);
		atomic_store(state_of(run, number), 0);
	}
	/* renew() may have locked it for the open file that is another holder's witness now. */
	take_lock(fd, F_UNLCK, number);
}

/* A free holder, locked by `fd`, with no bit set. */
static int claim(struct run_header *run, int fd, uint32_t *number)
{
	uint64_t token = ((uint64_t)getpid() << 32 | atomic_fetch_add(&tokens, 1)) << 1 | 1;
	uint32_t i;

	for (i = 0; i < run->holders; i++) {
		uint64_t expected = 0;
		long failed;

		if (atomic_load(state_of(run, i)) ||
		    !atomic_compare_exchange_strong(state_of(run, i), &expected, token))
			continue;
		/* Whoever finds it without a lock may clear it meanwhile, and has the lock then. */
		if (take_lock(fd, F_RDLCK, i))
			continue;
		if (atomic_load(state_of(run, i)) != token) {
			take_lock(fd, F_UNLCK, i);
			continue;
		}
		failed = call_fallocate(fd, 0, run->records_at + i * run->record_size,
					run->record_size);
		if (failed) {
			retire(run, fd, i);
			return (int)failed;
		}
		run_file_raise(&run->holders_used, i + 1);
		*number = i;
		return 0;
	}
	return -ENOSR;
}

static void set(struct run_header *run, uint32_t number, uint32_t range)
{
	atomic_fetch_or(&bits_of(run, number)[range / BITS], (uint64_t)1 << range % BITS);
}

/* What windows_each() calls back has no argument of its own; one thread at a time is here. */
static struct run_header *copied_run;
static uint32_t copied_to;

static void copy_one(uint32_t range)
{
	if (range < copied_run->ranges)
		set(copied_run, copied_to, range);
}

/* Go over to a new holder with the bits of this process's windows, and no others. */
static int start_anew(struct run_header *run, int fd)
{
	uint32_t before = atomic_load(&holder);
	uint32_t number = NOBODY;
	long failed = claim(run, fd, &number);

	if (failed)
		return (int)failed;
	copied_run = run;
	copied_to = number;
	windows_each(copy_one);
	/* Before the old holder can go: nobody shall miss both. */
	atomic_fetch_add(&run->moves, 1);
	failed = show(fd);
	if (failed) {
		retire(run, fd, number);
		return (int)failed;
	}
	atomic_store(&holder, number);
	retire(run, fd, before);
	return 0;
}

/* Take up the same holder with a new witness.  True if nobody else has it. */
static bool renew(int fd, uint32_t number)
{
	return !take_lock(fd, F_RDLCK, number) && !show(fd) && !is_shared(fd, number);
}

/* Make sure that the holder is this process's alone and has the right bits. */
static int settle(struct run_header *run)
{
	int fd = run_file_open();
	int failed = 0;

	if (fd < 0)
		return fd;
	if (!atomic_load(&own()->settled) || !renew(fd, atomic_load(&holder)))
		failed = start_anew(run, fd);
	atomic_store(&own()->settled, !failed);
	call_close(fd);
	return failed;
}

int holdings_add(struct run_header *run, uint32_t range)
{
	sigset_t before;
	int failed = enter(&before);

	if (failed)
		return failed;
	failed = settle(run);
	if (!failed)
		set(run, atomic_load(&holder), range);
	leave(&before);
	return failed;
}

bool holdings_drop(struct run_header *run, uint32_t range)
{
	bool dropped = false;
	sigset_t before;

	if (enter(&before))
		return false;
	if (!windows_have(range) && !settle(run)) {
		atomic_fetch_and(&bits_of(run, atomic_load(&holder))[range / BITS],
				 ~((uint64_t)1 << range % BITS));
		dropped = true;
	}
	leave(&before);
	return dropped;
}

static bool is_listed(struct run_header *run, uint32_t range)
{
	uint64_t i, used = atomic_load(&run->holders_used);
	uint64_t bit = (uint64_t)1 << range % BITS;

	for (i = 0; i < used; i++)
		if (atomic_load(state_of(run, (uint32_t)i)) &&
		    atomic_load(&bits_of(run, (uint32_t)i)[range / BITS]) & bit)
			return true;
	return false;
}

bool holdings_any(struct run_header *run, uint32_t range)
{
	uint64_t before, tries;

	for (tries = 0; tries < LOOKS; tries++) {
		before = atomic_load(&run->moves);
		if (is_listed(run, range))
			return true;
		if (atomic_load(&run->moves) == before)
			return false;
	}
	/* Too much is going on to be sure. */
	return true;
}

/* One of many processes that write and read random pages of a region that all of them
 * share. See tests/stress/test_pages.py for the rules.
 *
 * usage: pages REGION SIZE STABLE ID COUNT SECONDS
 *
 * Page p belongs to the process p % COUNT; only it writes there, and fills the page with one
 * word: its id in the high half, a version that grows in the low half. Pages below STABLE
 * bytes stay mapped: they hold the last word written, always, and are never a hole. Pages
 * above come and go: a hole is SIGBUS, and a page that came again holds zeros.
 * Exit code 0 with a line of counts, or 1 with the first wrong thing seen.
 */
#define _GNU_SOURCE
#include <msharefs_attach.h>

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / sizeof(uint64_t) };

static sigjmp_buf hole;
static uint64_t *map;
static size_t size;
static int fd;

static void on_sigbus(int number)
{
	siglongjmp(hole, number);
}

static void fail(const char *what, size_t page, uint64_t seen, uint64_t wanted)
{
	fprintf(stderr, "page %zu: %s: %#llx, wanted %#llx\n", page, what,
		(unsigned long long)seen, (unsigned long long)wanted);
	exit(1);
}

static void attach(void)
{
	if (map)
		msharefs_detach(map);
	map = msharefs_attach(fd, size, PROT_READ | PROT_WRITE);
	if (map == MAP_FAILED) {
		perror("msharefs_attach");
		exit(1);
	}
}

/* Every word is what the owner wrote last, or 0 where the page may have come again. */
static void check_own(size_t page, uint64_t last, int may_be_zero)
{
	volatile uint64_t *words = map + page * WORDS;

	for (int i = 0; i < WORDS; i++) {
		uint64_t seen = words[i];

		if (seen != last && !(may_be_zero && seen == 0))
			fail("own page", page, seen, last);
	}
}

/* A foreign page holds its owner's words, or 0; versions do not matter: he may be writing. */
static void check_foreign(size_t page, uint64_t owner)
{
	volatile uint64_t *words = map + page * WORDS;

	for (int i = 0; i < WORDS; i += 37) {
		uint64_t seen = words[i];

		if (seen != 0 && seen >> 32 != owner)
			fail("foreign page", page, seen, owner << 32);
	}
}

int main(int argc, char **argv)
{
	if (argc != 7)
		return 2;
	size = strtoul(argv[2], NULL, 0);
	size_t stable = strtoul(argv[3], NULL, 0) / PAGE, pages = size / PAGE;
	uint64_t id = strtoul(argv[4], NULL, 0), count = strtoul(argv[5], NULL, 0);
	time_t end = time(NULL) + atoi(argv[6]);
	uint64_t *last = calloc(pages, sizeof(*last));
	unsigned seed = (unsigned)id * 7919 + 1;
	unsigned long volatile done = 0, holes = 0;
	uint64_t volatile version = 1;
	struct sigaction action = { .sa_handler = on_sigbus };

	fd = open(argv[1], O_RDWR);
	if (fd < 0 || !last) {
		perror(argv[1]);
		return 1;
	}
	sigaction(SIGBUS, &action, NULL);
	attach();
	while (time(NULL) < end) {
		size_t volatile page = (size_t)rand_r(&seed) % pages;
		int volatile what = rand_r(&seed) % 1000;

		if (what == 0) {
			attach();
			continue;
		}
		if (what < 10) {
			/* Dirty pages go to the segment; holes in the range do not matter. */
			msync(map, size, MS_SYNC);
			continue;
		}
		if (sigsetjmp(hole, 1)) {
			if (page < stable)
				fail("SIGBUS in a mapped page", page, 0, last[page]);
			holes++;
			continue;
		}
		done++;
		if (what < 500) {
			page = page / count * count + id;
			if (page >= pages)
				continue;
			check_own(page, last[page], page >= stable);
			uint64_t word = id << 32 | version++;

			/* A hole may come in the middle, and the page again: then it is zeros. */
			last[page] = word;
			for (int i = 0; i < WORDS; i++)
				((volatile uint64_t *)map)[page * WORDS + i] = word;
		} else {
			check_foreign(page, page % count);
		}
	}
	printf("%lu accesses, %lu holes\n", done, holes);
	return 0;
}

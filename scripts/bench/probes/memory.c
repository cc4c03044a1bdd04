/*
 * Memory speed of an attached file against another piece of memory, in turns,
 * so that whatever else the machine does hits both alike.
 *
 * usage: memory write  ROUNDS SIZE FILE         against anonymous huge pages
 *                                               (direct:FILE, the memory of a region itself)
 *        memory random ROUNDS SIZE FILE OTHER   against another file
 *        memory sync   ROUNDS SIZE FILE OTHER   written and msync'ed, against another file
 * prints: ours VALUE / theirs VALUE a line      bytes a second / nanoseconds a read
 */
#include <fcntl.h>

#include "common.h"
#include "direct.h"

#define READS 2000000UL

static volatile uint64_t sink;

static char *anonymous(uint64_t size)
{
	char *at = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		die("mmap", "anonymous");
	at = (char *)(((uintptr_t)at + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	if (madvise(at, size, MADV_HUGEPAGE) != 0)
		die("madvise", "MADV_HUGEPAGE");
	return at;
}

static double write_all(char *at, uint64_t size, int value)
{
	uint64_t start = now_ns();

	memset(at, value, size);
	/* The compiler may not see that nobody looks at the bytes. */
	__asm__ volatile("" : : "r"(at) : "memory");
	return (double)size * 1e9 / (double)(now_ns() - start);
}

static double write_and_sync(char *at, uint64_t size, int value)
{
	uint64_t start = now_ns();

	memset(at, value, size);
	if (msync(at, size, MS_SYNC) != 0)
		die("msync", "the whole");
	return (double)size * 1e9 / (double)(now_ns() - start);
}

static double read_at_random(const char *at, uint64_t size, uint64_t seed)
{
	const uint64_t *words = (const uint64_t *)at;
	uint64_t mask = size / sizeof(*words) - 1, sum = 0, start = now_ns();

	for (uint64_t i = 0; i < READS; i++)
		sum += words[next_random(&seed) & mask];
	sink = sum;
	return (double)(now_ns() - start) / READS;
}

static char *attach_spec(const char *spec, uint64_t size)
{
	const char *path = spec + strlen("direct:");
	int fd;

	if (strncmp(spec, "direct:", strlen("direct:")) != 0)
		return attach(spec, size);
	fd = open(path, O_RDWR);
	if (fd < 0)
		die("open", path);
	return attach_directly(fd, size, path);
}

int main(int argc, char **argv)
{
	int random = argc == 6 && strcmp(argv[1], "random") == 0;
	int sync = argc == 6 && strcmp(argv[1], "sync") == 0;
	uint64_t rounds, size;
	char *side[2];

	if (!random && !sync && !(argc == 5 && strcmp(argv[1], "write") == 0)) {
		fprintf(stderr, "usage: memory write|random|sync ROUNDS SIZE FILE [OTHER]\n");
		return 2;
	}
	rounds = number(argv[2]);
	size = number(argv[3]);
	if (size & (size - 1)) {
		fprintf(stderr, "the size must be a power of two\n");
		return 2;
	}
	side[0] = attach_spec(argv[4], size);
	side[1] = random || sync ? attach(argv[5], size) : anonymous(size);
	/* Every page is there and mapped before the clock runs. */
	write_all(side[0], size, 1);
	write_all(side[1], size, 1);
	for (uint64_t round = 0; round < rounds; round++) {
		for (int i = 0; i < 2; i++) {
			double value = random ? read_at_random(side[i], size, round + 88172645463325252u)
				       : sync ? write_and_sync(side[i], size, (int)round + 2)
					      : write_all(side[i], size, (int)round + 2);
			printf("%s %.4f\n", i == 0 ? "ours" : "theirs", value);
		}
	}
	return 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * consumer - attach the region that producer (or share.py) made, check the numbers,
 * write their sum back and take the region away.
 *
 *   consumer [-k] [MOUNT [NAME]]
 *
 * MOUNT is the directory where msharefs is mounted (default /sys/fs/mshare), NAME
 * that of the region (default exchange).  -k keeps the region.  Exit code 0, 1 if
 * something failed or the numbers are wrong, 2 for a wrong command line.
 */
#define _GNU_SOURCE
#include "exchange.h"

/* Step 4: a process that knows the name opens it, asks for its size and maps it. */
static struct exchange *attach(const char *path, size_t *size)
{
	struct exchange *exchange;
	struct stat status;
	int fd;

	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd == -1)
		fail("open", path);
	if (fstat(fd, &status) == -1)
		fail("see the size of", path);
	*size = status.st_size;
	exchange = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (exchange == MAP_FAILED)
		fail("attach", path);
	/* The mapping needs no descriptor. */
	close(fd);
	return exchange;
}

/* NULL if the numbers are what the producer wrote, else what is wrong with them. */
static const char *problem(const struct exchange *exchange)
{
	if (__atomic_load_n(&exchange->state, __ATOMIC_ACQUIRE) != EXCHANGE_READY)
		return "the producer has not finished";
	if (exchange->count != EXCHANGE_COUNT)
		return "the count is wrong";
	if (exchange->checksum != exchange_checksum(exchange->numbers, EXCHANGE_COUNT))
		return "the checksum is wrong";
	return NULL;
}

static uint64_t sum(const struct exchange *exchange)
{
	uint64_t total = 0;
	uint64_t i;

	for (i = 0; i < exchange->count; i++)
		total += exchange->numbers[i];
	return total;
}

static int usage(void)
{
	fprintf(stderr, "usage: consumer [-k] [MOUNT [NAME]]\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct exchange *exchange;
	const char *mount, *name, *wrong;
	char path[PATH_MAX];
	int keep = 0;
	size_t size;
	int option;

	while ((option = getopt(argc, argv, "k")) != -1) {
		if (option != 'k')
			return usage();
		keep = 1;
	}
	if (argc - optind > 2)
		return usage();
	mount = optind < argc ? argv[optind] : DEFAULT_MOUNT;
	name = optind + 1 < argc ? argv[optind + 1] : DEFAULT_NAME;
	join(path, mount, name);

	exchange = attach(path, &size);
	wrong = problem(exchange);
	if (wrong != NULL) {
		fprintf(stderr, "consumer: %s: %s\n", path, wrong);
		return 1;
	}
	/* The producer sees this at once, if it still has the region attached. */
	exchange->answer = sum(exchange);
	printf("consumer: %llu numbers in %s are right, answered their sum %llu, attached at %p\n",
	       (unsigned long long)exchange->count, path, (unsigned long long)exchange->answer,
	       (void *)exchange);

	/* Step 5: away with the mapping, and with the last name the memory goes too. */
	munmap(exchange, size);
	if (!keep && unlink(path) == -1)
		fail("unlink", path);
	return 0;
}

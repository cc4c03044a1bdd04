/*
 * What attaching costs a process that has just started: the time of open, mmap
 * and one read in every page, and the page tables that it leaves.
 *
 * usage: attach PATH SIZE [advised|direct]
 *        advised: with the advice that a region's mount has for large attachments
 *        direct: the memory of the region itself, as msharefs_attach() has it
 * prints: nanoseconds NS
 *         touch_ns NS       of these the reads alone
 *         tables_kb KB      page tables after, less those before
 *         huge_kb KB        how much of the mapping is mapped by huge pages
 *
 * Pages are read, not written: the kernel maps sixteen small pages at one read
 * fault, so this is the comparison that favours small pages most.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "common.h"
#include "direct.h"
#include "proc.h"

static uint64_t huge_kb_at(const void *address)
{
	char key[32];
	const char *at;

	load("/proc/self/smaps");
	snprintf(key, sizeof(key), "%lx-", (unsigned long)(uintptr_t)address);
	at = strstr(proc_text, key);
	if (!at) {
		fprintf(stderr, "mapping not found in smaps\n");
		exit(1);
	}
	return field_kb(at, "ShmemPmdMapped:");
}

static void advise(int fd, void *at, uint64_t size)
{
	char advice[16] = "";

	if (fgetxattr(fd, "user.msharefs.advice", advice, sizeof(advice) - 1) < 0)
		die("getxattr", "user.msharefs.advice");
	if (madvise(at, size, atoi(advice)))
		die("madvise", advice);
}

int main(int argc, char **argv)
{
	uint64_t size, before, after, start, attached, end, sum = 0;
	volatile char *at;
	int fd, direct;

	if (argc != 3 && argc != 4) {
		fprintf(stderr, "usage: attach PATH SIZE [advised|direct]\n");
		return 2;
	}
	size = number(argv[2]);
	direct = argc == 4 && strcmp(argv[3], "direct") == 0;
	tables_kb(); /* the first look may need pages of its own */
	before = tables_kb();

	start = now_ns();
	fd = open(argv[1], O_RDWR);
	if (fd < 0)
		die("open", argv[1]);
	at = direct ? attach_directly(fd, size, argv[1]) : map_shared(fd, size, argv[1]);
	if (argc == 4 && !direct)
		advise(fd, (void *)at, size);
	attached = now_ns();
	for (uint64_t offset = 0; offset < size; offset += PAGE)
		sum += (unsigned char)at[offset];
	end = now_ns();

	after = tables_kb();
	printf("nanoseconds %lu\n", (unsigned long)(end - start));
	printf("touch_ns %lu\n", (unsigned long)(end - attached));
	printf("tables_kb %lu\n", (unsigned long)(after - before));
	printf("huge_kb %lu\n", (unsigned long)huge_kb_at((const void *)at));
	return sum == 1; /* keeps the reads; the memory holds no such sum */
}

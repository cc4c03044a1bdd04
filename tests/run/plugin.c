/* A library that a program loads, and that maps: "grab" gives shared memory of so many bytes. */
#include <stddef.h>
#include <sys/mman.h>

void *grab(size_t size);

void *grab(size_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* By its address, as libraries keep it in tables of their own. */
void *(*const kept)(void *, size_t, int, int, int, long) = mmap;

/*
 * Processes that map, fork, unmap, end and are killed at random, for some seconds, and look
 * each time whether what they have mapped still holds what they wrote.  A parent may end
 * before its child.  Exit code 66 and a line on standard error if memory was taken away or
 * given to two.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WINDOWS 8
#define DEEPEST 4
#define MIB (1UL << 20)

static struct {
	uint64_t *at; /* the mark is in the first and in the last word */
	size_t size;
	uint64_t mark;
} windows[WINDOWS];

static uint64_t seed;
static int depth;

static unsigned int chance(unsigned int of)
{
	seed = seed * 6364136223846793005UL + 1442695040888963407UL;
	return (unsigned int)(seed >> 33) % of;
}

static void wrong(const char *what)
{
	if (write(STDERR_FILENO, what, strlen(what)) < 0)
		_exit(67);
	_exit(66);
}

static void on_fault(int signal)
{
	(void)signal;
	wrong("memory was taken away\n");
}

static void check(unsigned int i)
{
	if (!windows[i].at)
		return;
	if (windows[i].at[0] != windows[i].mark ||
	    windows[i].at[windows[i].size / 8 - 1] != windows[i].mark)
		wrong("memory is not what was written\n");
}

static void map(unsigned int i)
{
	size_t size = (1 + chance(4)) * MIB;
	uint64_t *at;

	if (windows[i].at)
		return;
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		wrong("no memory at all\n");
	if (at[0] || at[size / 8 - 1])
		wrong("new memory is not zero\n");
	windows[i].at = at;
	windows[i].size = size;
	windows[i].mark = seed | 1;
	at[0] = at[size / 8 - 1] = windows[i].mark;
}

static void unmap(unsigned int i)
{
	check(i);
	if (windows[i].at && munmap(windows[i].at, windows[i].size))
		wrong("munmap failed\n");
	windows[i].at = NULL;
}

static void multiply(void)
{
	pid_t child;

	if (depth >= DEEPEST)
		return;
	child = fork();
	if (child > 0 && depth && !chance(3))
		_exit(0);
	if (child == 0) {
		depth++;
		seed += (uint64_t)getpid() * 31;
	}
}

static void leave(void)
{
	if (!depth || chance(2))
		return;
	if (chance(2))
		kill(getpid(), SIGKILL);
	_exit(0);
}

static void step(void)
{
	unsigned int i = chance(WINDOWS);

	switch (chance(12)) {
	case 0:
	case 1:
	case 2:
	case 3:
		map(i);
		break;
	case 4:
	case 5:
	case 6:
		unmap(i);
		break;
	case 7:
		multiply();
		break;
	case 8:
		leave();
		break;
	default:
		for (i = 0; i < WINDOWS; i++)
			check(i);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

int main(int count, char **words)
{
	time_t end = time(NULL) + (count > 1 ? atoi(words[1]) : 1);

	signal(SIGBUS, on_fault);
	signal(SIGSEGV, on_fault);
	seed = (uint64_t)getpid() * 7919 + (uint64_t)end;
	while (time(NULL) < end)
		step();
	return 0;
}

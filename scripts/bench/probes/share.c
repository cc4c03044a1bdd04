/*
 * What shared memory of any kind costs those who attach it.
 *
 * usage: share fill SPEC SIZE              every page written
 *        share collapse SPEC SIZE          MADV_COLLAPSE of all of it
 *        share settle SPEC SIZE            wait until a region is in huge pages, a minute at most
 *        share attach SPEC SIZE            a new process attaches and reads a byte of each page
 *        share herd SPEC SIZE COUNT        COUNT processes do so at once
 *        share fork SPEC SIZE COUNT        forks of a process that has touched all of it
 *        share read SPEC SIZE              all words, cold and then warm
 *        share speed SPEC SIZE THREADS     sequential writes, random reads
 *        share sysv SIZE                   make a SysV segment and print its number
 *        share drop ID                     and take it away
 *        SPEC: file:PATH, direct:PATH (a region on a direct mount) or sysv:ID; SIZE in bytes
 * prints: a name and a value a line; names that end in _s are seconds, in _b bytes
 *
 * All but direct regions are attached at a multiple of 1 GiB, in GiB where nothing else is: hugetlbfs shares its
 * second level of page tables only there, huge pages need a multiple of 2 MiB, and small ones do not care.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/wait.h>

#include "direct.h"
#include "proc.h"

#define GIB (1UL << 30)
#define READS 2000000UL
#define MAX_THREADS 16
#define COLLAPSE_TRIES 50
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static volatile uint64_t sink;

/* A multiple of 1 GiB with nothing else in the same GiB, which would pay for its second level. */
static char *place_for(uint64_t size)
{
	uint64_t room_size = ((size + GIB - 1) & ~(GIB - 1)) + 3 * GIB;
	char *room = mmap(NULL, room_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);

	if (room == MAP_FAILED)
		die("mmap", "room for addresses");
	munmap(room, room_size);
	return (char *)((((uintptr_t)room + GIB - 1) & ~(GIB - 1)) + GIB);
}

/* All of it, whatever is asked for: so it takes room for all of it. */
static char *attach_sysv(int id, const char *spec)
{
	struct shmid_ds facts;
	char *at;

	if (shmctl(id, IPC_STAT, &facts) < 0)
		die("shmctl", spec);
	at = place_for(facts.shm_segsz);
	if (shmat(id, at, 0) != at)
		die("shmat", spec);
	return at;
}

static char *attach_spec(const char *spec, uint64_t size)
{
	const char *path = strchr(spec, ':');
	char *at;
	int fd;

	if (!path++) {
		fprintf(stderr, "neither file:, direct: nor sysv: %s\n", spec);
		exit(2);
	}
	if (strncmp(spec, "sysv:", 5) == 0)
		return attach_sysv((int)number(path), spec);
	at = place_for(size);
	fd = open(path, O_RDWR);
	if (fd < 0)
		die("open", spec);
	if (strncmp(spec, "direct:", 7) == 0) {
		at = attach_directly(fd, size, path);
		close(fd);
		return at;
	}
	if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0) != at)
		die("mmap", spec);
	close(fd);
	return at;
}

static void touch_all(const char *at, uint64_t size)
{
	const volatile char *bytes = at;

	for (uint64_t offset = 0; offset < size; offset += PAGE)
		(void)bytes[offset];
}

/* What the attaching itself needs of code and of tables for it is there before anything counts. */
static void rehearse(const char *spec)
{
	char *at = attach_spec(spec, HUGE_PAGE);

	touch_all(at, PAGE);
	if (strncmp(spec, "sysv:", 5) == 0)
		shmdt(at);
	else if (strncmp(spec, "direct:", 7) == 0)
		msharefs_detach(at);
	else
		munmap(at, HUGE_PAGE);
}

static uint64_t read_all(const char *at, uint64_t size)
{
	const uint64_t *words = (const uint64_t *)at;
	uint64_t start = now_ns(), sum = 0;

	for (uint64_t i = 0; i < size / sizeof(*words); i++)
		sum += words[i];
	sink = sum;
	return now_ns() - start;
}

static void seconds(const char *name, uint64_t ns)
{
	printf("%s %.9f\n", name, (double)ns / 1e9);
}

static uint64_t minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (uint64_t)usage.ru_minflt;
}

static void fill(const char *spec, uint64_t size, uint64_t unused)
{
	(void)unused;
	memset(attach_spec(spec, size), 1, size);
}

static void collapse(const char *spec, uint64_t size, uint64_t unused)
{
	char *at = attach_spec(spec, size);
	uint64_t start = now_ns();

	(void)unused;
	touch_all(at, size);
	/* EAGAIN: a page was in use for a moment; what is collapsed already stays so. */
	for (int tries = 0; madvise(at, size, MADV_COLLAPSE) != 0; tries++)
		if (errno != EAGAIN || tries == COLLAPSE_TRIES)
			die("MADV_COLLAPSE", spec);
	seconds("collapse_s", now_ns() - start);
}

/* What is not huge after a minute stays so, and is measured so. */
static void settle(const char *spec, uint64_t size, uint64_t unused)
{
	static const struct timespec pause = {.tv_nsec = 50000000};
	static char layout[1 << 16];
	const char *path = strchr(spec, ':') + 1, *at;

	(void)unused;
	for (int tries = 0; tries < 1200; tries++) {
		ssize_t got = getxattr(path, "user.msharefs.layout", layout, sizeof(layout) - 1);

		if (got < 0)
			die("getxattr", path);
		layout[got] = '\0';
		at = strstr(layout, "\"collapsed\":");
		if (!at || strtoull(at + 12, NULL, 10) >= size)
			return;
		nanosleep(&pause, NULL);
	}
}

static void attach_once(const char *spec, uint64_t size, uint64_t unused)
{
	uint64_t before, faults, start, touching, end;
	char *at;

	(void)unused;
	rehearse(spec);
	tables_kb(); /* the first look may need pages of its own */
	before = tables_kb();
	faults = minor_faults();
	start = now_ns();
	at = attach_spec(spec, size);
	touching = now_ns();
	touch_all(at, size);
	end = now_ns();
	faults = minor_faults() - faults;
	seconds("attach_s", end - start);
	printf("faults %lu\n", (unsigned long)faults);
	printf("faults_per_second %.1f\n", (double)faults * 1e9 / (double)(end - touching));
	printf("tables_b %lu\n", (unsigned long)(tables_kb() - before) * 1024);
}

/* A byte from every process; the pipe's end comes only if one has died. */
static void await_all(int fd, uint64_t count)
{
	char byte;

	for (uint64_t i = 0; i < count; i++)
		if (read(fd, &byte, 1) != 1)
			die("read", "a process that did not attach");
}

static void member(const char *spec, uint64_t size, int gate, int done, int leave)
{
	char byte = 0;

	rehearse(spec);
	if (write(done, &byte, 1) != 1)
		die("write", "that it is ready");
	if (read(gate, &byte, 1) != 0)
		die("read", "the gate");
	touch_all(attach_spec(spec, size), size);
	if (write(done, &byte, 1) != 1)
		die("write", "that all is touched");
	if (read(leave, &byte, 1) != 0)
		die("read", "the leave");
	_exit(0);
}

static void herd(const char *spec, uint64_t size, uint64_t count)
{
	int gate[2], done[2], leave[2];
	uint64_t before, start, end, tables;

	if (pipe(gate) || pipe(done) || pipe(leave))
		die("pipe", spec);
	for (uint64_t i = 0; i < count; i++) {
		pid_t child = fork();

		if (child < 0)
			die("fork", "a process");
		if (child == 0) {
			close(gate[1]);
			close(leave[1]);
			close(done[0]);
			member(spec, size, gate[0], done[1], leave[0]);
		}
	}
	close(done[1]);
	await_all(done[0], count);
	before = settled_tables_kb();
	start = now_ns();
	close(gate[1]);
	await_all(done[0], count);
	end = now_ns();
	tables = all_tables_kb();
	close(leave[1]);
	while (wait(NULL) > 0)
		;
	seconds("all_attached_s", end - start);
	/* What else the machine does is in it; below nothing there is nothing. */
	printf("page_tables_b %lu\n", (unsigned long)(tables > before ? tables - before : 0) * 1024);
}

static void forks(const char *spec, uint64_t size, uint64_t count)
{
	touch_all(attach_spec(spec, size), size);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t start = now_ns();
		pid_t child = fork();

		if (child < 0)
			die("fork", "a process");
		if (child == 0)
			_exit(0);
		seconds("fork_s", (uint64_t)((double)(now_ns() - start) * GIB / size));
		waitpid(child, NULL, 0);
	}
}

static void read_twice(const char *spec, uint64_t size, uint64_t unused)
{
	uint64_t start = now_ns();
	char *at = attach_spec(spec, size);

	(void)unused;
	read_all(at, size);
	seconds("cold_s", now_ns() - start);
	seconds("warm_s", read_all(at, size));
}

struct worker {
	pthread_t thread;
	char *at;
	uint64_t size, seed, count;
};

static void *write_part(void *arg)
{
	struct worker *w = arg;

	memset(w->at, (int)w->seed, w->size);
	__asm__ volatile("" : : "r"(w->at) : "memory");
	return NULL;
}

static void *read_at_random(void *arg)
{
	struct worker *w = arg;
	const uint64_t *words = (const uint64_t *)w->at;
	uint64_t mask = w->size / sizeof(*words) - 1, sum = 0, seed = w->seed;

	for (uint64_t i = 0; i < READS; i++)
		sum += words[next_random(&seed) & mask];
	sink = sum;
	return NULL;
}

static uint64_t time_threads(struct worker *workers, uint64_t count, void *(*work)(void *))
{
	uint64_t start = now_ns();

	for (uint64_t i = 0; i < count; i++)
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			die("pthread_create", "a thread");
	for (uint64_t i = 0; i < count; i++)
		pthread_join(workers[i].thread, NULL);
	return now_ns() - start;
}

static void speed(const char *spec, uint64_t size, uint64_t threads)
{
	struct worker workers[MAX_THREADS];
	char *at = attach_spec(spec, size);

	if (threads < 1 || threads > MAX_THREADS || (size & (size - 1))) {
		fprintf(stderr, "1 to 16 threads, and a size that is a power of two\n");
		exit(2);
	}
	memset(at, 1, size);
	for (int round = 0; round < 3; round++) {
		uint64_t ns;

		for (uint64_t i = 0; i < threads; i++)
			workers[i] = (struct worker){.at = at + i * (size / threads),
						     .size = size / threads,
						     .seed = (uint64_t)round + 2};
		ns = time_threads(workers, threads, write_part);
		printf("write_bps %.1f\n", (double)size * 1e9 / (double)ns);
		for (uint64_t i = 0; i < threads; i++)
			workers[i] = (struct worker){
				.at = at, .size = size, .seed = 88172645463325252u + i * 7 + (uint64_t)round};
		ns = time_threads(workers, threads, read_at_random);
		/* Of all threads together. */
		printf("random_rate %.1f\n", (double)(READS * threads) * 1e9 / (double)ns);
	}
}

static void make_sysv(const char *size, uint64_t unused, uint64_t unused_too)
{
	int id = shmget(IPC_PRIVATE, number(size), IPC_CREAT | 0600);

	(void)unused, (void)unused_too;

	if (id < 0)
		die("shmget", "a segment");
	printf("id %d\n", id);
}

static void drop_sysv(const char *id, uint64_t unused, uint64_t unused_too)
{
	(void)unused, (void)unused_too;
	if (shmctl((int)number(id), IPC_RMID, NULL) != 0)
		die("shmctl", id);
}

static const struct {
	const char *name;
	int words; /* after it */
	void (*run)(const char *spec, uint64_t size, uint64_t number);
} commands[] = {
	{"fill", 2, fill},	   {"collapse", 2, collapse}, {"attach", 2, attach_once},
	{"settle", 2, settle},
	{"herd", 3, herd},	   {"fork", 3, forks},	      {"read", 2, read_twice},
	{"speed", 3, speed},	   {"sysv", 1, make_sysv},    {"drop", 1, drop_sysv},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc >= 3 && i < sizeof(commands) / sizeof(*commands); i++) {
		if (strcmp(argv[1], commands[i].name) != 0 || argc != commands[i].words + 2)
			continue;
		commands[i].run(argv[2], argc >= 4 ? number(argv[3]) : 0,
				argc == 5 ? number(argv[4]) : 0);
		return 0;
	}
	fprintf(stderr, "usage: share fill|collapse|settle|attach|read SPEC SIZE, share herd|fork|speed "
			"SPEC SIZE NUMBER, share sysv SIZE, share drop ID\n");
	return 2;
}

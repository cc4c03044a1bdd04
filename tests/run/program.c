/*
 * A program that knows nothing of mshare: it maps, forks and unmaps as it is told, one
 * command a line on standard input, one line of answer to each on standard output.
 *
 * A line that begins with ">" goes to the youngest child, without the ">", and the child's
 * answer comes back.  tests/run/programs.py writes the lines.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLOTS 64
#define WORDS 12

static char *memory[SLOTS];
static size_t sizes[SLOTS];
static int files[SLOTS];
static FILE *to_child, *from_child;
static pid_t child;
static sigjmp_buf escape;

static char *words[WORDS];

static size_t number(int i)
{
	return words[i] ? strtoull(words[i], NULL, 0) : 0;
}

static int says(const char *word)
{
	int i;

	for (i = 1; i < WORDS && words[i]; i++)
		if (!strcmp(words[i], word))
			return 1;
	return 0;
}

static void outcome(int failed)
{
	if (failed)
		printf("%s\n", strerrorname_np(errno));
	else
		printf("ok\n");
}

static void *map(size_t size, int flags)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | flags, -1, 0);
}

/* map SLOT SIZE ADDRESS FLAG... */
static void do_map(void)
{
	static const struct {
		const char *word;
		int flag;
	} known[] = {
		{"noreserve", MAP_NORESERVE}, {"hugetlb", MAP_HUGETLB}, {"populate", MAP_POPULATE},
		{"locked", MAP_LOCKED}, {"fixed", MAP_FIXED}, {"noreplace", MAP_FIXED_NOREPLACE},
	};
	int flags = MAP_ANONYMOUS | (says("private") ? MAP_PRIVATE : MAP_SHARED);
	int prot = says("none") ? PROT_NONE : PROT_READ | PROT_WRITE;
	size_t i, slot = number(1);
	void *at;

	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (says(known[i].word))
			flags |= known[i].flag;
	at = mmap((void *)number(3), number(2), prot, flags, -1, 0);
	if (at == MAP_FAILED) {
		outcome(1);
		return;
	}
	memory[slot] = at;
	sizes[slot] = number(2);
	printf("%p\n", at);
}

/* unmap SLOT [OFFSET SIZE] */
static void do_unmap(void)
{
	size_t slot = number(1);

	outcome(munmap(memory[slot] + number(2), words[3] ? number(3) : sizes[slot]));
}

static void on_fault(int signal)
{
	siglongjmp(escape, signal);
}

/* put SLOT OFFSET BYTE, get SLOT OFFSET */
static void do_touch(int put)
{
	int signal = sigsetjmp(escape, 1);

	if (signal)
		printf("SIG%s\n", sigabbrev_np(signal));
	else if (put) {
		memory[number(1)][number(2)] = (char)number(3);
		printf("ok\n");
	} else
		printf("%d\n", memory[number(1)][number(2)]);
}

/* remap SLOT OLD NEW [move] */
static void do_remap(void)
{
	size_t slot = number(1);
	void *at = mremap(memory[slot], number(2), number(3), says("move") ? MREMAP_MAYMOVE : 0);

	if (at == MAP_FAILED) {
		outcome(1);
		return;
	}
	if (number(2))
		memory[slot] = at;
	sizes[slot] = number(3);
	printf("%p\n", at);
}

/* where SLOT [OFFSET]: the path that the kernel shows at that address. */
static void do_where(void)
{
	unsigned long address = (unsigned long)memory[number(1)] + number(2);
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long start, end;
	char line[512], path[400];

	while (maps && fgets(line, sizeof(line), maps)) {
		path[0] = 0;
		sscanf(line, "%lx-%lx %*s %*s %*s %*s %399[^\n]", &start, &end, path);
		if (start <= address && address < end) {
			printf("%s\n", path[0] ? path : "nothing");
			fclose(maps);
			return;
		}
	}
	if (maps)
		fclose(maps);
	printf("unmapped\n");
}

static atomic_int wrong;

static void use(size_t size, char mark)
{
	char *at = map(size, 0);

	if (at == MAP_FAILED) {
		wrong = 1;
		return;
	}
	if (at[0] || at[size - 1])
		wrong = 2;
	at[0] = at[size - 1] = mark;
	sched_yield();
	if (at[0] != mark || at[size - 1] != mark)
		wrong = 3;
	if (munmap(at, size))
		wrong = 4;
}

static void *use_often(void *mark)
{
	size_t i, rounds = number(2);

	for (i = 0; i < rounds; i++)
		use(number(3), (char)(size_t)mark);
	return NULL;
}

/* threads COUNT ROUNDS SIZE */
static void do_threads(void)
{
	pthread_t threads[SLOTS];
	size_t i, count = number(1);

	wrong = 0;
	for (i = 0; i < count; i++)
		pthread_create(&threads[i], NULL, use_often, (void *)(i + 1));
	for (i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	printf("%d\n", wrong);
}

static atomic_uint handled;
static size_t handler_size;

/* At a time that is different each time, so that it meets different places. */
static void ring_again(void)
{
	struct itimerval once = {{0, 0}, {0, 200 + handled * 377 % 5000}};

	setitimer(ITIMER_REAL, &once, NULL);
}

static void map_in_handler(int signal)
{
	int before = errno;

	(void)signal;
	use(handler_size, 77);
	errno = before;
	handled++;
	ring_again();
}

/* signals TIMES SIZE: a handler maps while its own thread maps, until it has done so TIMES. */
static void do_signals(void)
{
	struct sigaction action = {.sa_handler = map_in_handler};
	struct itimerval never = {{0, 0}, {0, 0}};
	unsigned int times = (unsigned int)number(1);

	wrong = 0;
	handled = 0;
	handler_size = number(2);
	sigaction(SIGALRM, &action, NULL);
	ring_again();
	while (handled < times)
		use(number(2), 5);
	setitimer(ITIMER_REAL, &never, NULL);
	printf("%d\n", wrong);
}

static size_t alone_slot;

static void map_alone(int signal)
{
	(void)signal;
	map(sizes[alone_slot], 0);
}

/* alone SLOT: listen to signals only; at SIGUSR1 map as much as the slot has. */
static void do_alone(void)
{
	alone_slot = number(1);
	signal(SIGUSR1, map_alone);
	signal(SIGPIPE, SIG_IGN);
	printf("ok\n");
	fflush(stdout);
	for (;;)
		pause();
}

static void do_fork(void)
{
	int down[2], up[2];

	if (pipe2(down, O_CLOEXEC) || pipe2(up, O_CLOEXEC)) {
		outcome(1);
		return;
	}
	fflush(stdout);
	child = fork();
	if (child) {
		close(down[0]);
		close(up[1]);
		to_child = fdopen(down[1], "w");
		from_child = fdopen(up[0], "r");
		printf("%d\n", child);
		return;
	}
	/* Else it would never see the end of its own input. */
	close(down[1]);
	close(up[0]);
	if (to_child) {
		close(fileno(to_child));
		close(fileno(from_child));
	}
	to_child = from_child = NULL;
	dup2(down[0], STDIN_FILENO);
	dup2(up[1], STDOUT_FILENO);
	clearerr(stdin);
}

/* children COUNT: that do nothing, and end with this process. */
static void do_children(void)
{
	size_t i, made = 0;

	for (i = 0; i < number(1); i++) {
		pid_t pid = fork();

		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
		made += pid > 0;
	}
	printf("%zu\n", made);
}

static void pass_down(const char *line)
{
	char answer[600];

	fputs(line, to_child);
	fflush(to_child);
	fputs(fgets(answer, sizeof(answer), from_child) ? answer : "gone\n", stdout);
}

/* openat SLOT: a file of /dev/shm that has no name. */
static void do_open_nameless(void)
{
	files[number(1)] = open("/dev/shm", O_TMPFILE | O_RDWR, 0600);
	outcome(files[number(1)] == -1);
}

/* open SLOT NAME FLAG...: shm_open */
static void do_open(void)
{
	int flags = says("ro") ? O_RDONLY : O_RDWR;

	flags |= says("create") ? O_CREAT | O_EXCL : 0;
	flags |= says("trunc") ? O_TRUNC : 0;
	files[number(1)] = shm_open(words[2], flags, 0600);
	outcome(files[number(1)] == -1);
}

/* mapfile SLOT FILE SIZE OFFSET [ro] */
static void do_mapfile(void)
{
	int prot = PROT_READ | (says("ro") ? 0 : PROT_WRITE);
	void *at = mmap(NULL, number(3), prot, MAP_SHARED, files[number(2)], (off_t)number(4));

	if (at == MAP_FAILED) {
		outcome(1);
		return;
	}
	memory[number(1)] = at;
	sizes[number(1)] = number(3);
	printf("ok\n");
}

/* write FILE OFFSET BYTE, read FILE OFFSET */
static void do_write(void)
{
	char byte = (char)number(3);

	outcome(pwrite(files[number(1)], &byte, 1, (off_t)number(2)) != 1);
}

static void do_read(void)
{
	char byte = 0;
	ssize_t count = pread(files[number(1)], &byte, 1, (off_t)number(2));

	if (count < 0)
		outcome(1);
	else
		printf("%zd %d\n", count, byte);
}

static void do_stat(void)
{
	struct stat status;

	if (fstat(files[number(1)], &status))
		outcome(1);
	else
		printf("%ld %ld\n", (long)status.st_size, (long)status.st_blocks);
}

/* shmget SIZE [KEY]: an id */
static void do_shmget(void)
{
	key_t key = words[2] ? (key_t)number(2) : IPC_PRIVATE;
	int id = shmget(key, number(1), IPC_CREAT | 0600);

	if (id == -1)
		outcome(1);
	else
		printf("%d\n", id);
}

/* shmat SLOT ID [ro] */
static void do_shmat(void)
{
	void *at = shmat((int)number(2), NULL, says("ro") ? SHM_RDONLY : 0);

	if (at == (void *)-1) {
		outcome(1);
		return;
	}
	memory[number(1)] = at;
	printf("ok\n");
}

static void do_attached(void)
{
	struct shmid_ds status;

	if (shmctl((int)number(1), IPC_STAT, &status))
		outcome(1);
	else
		printf("%lu\n", (unsigned long)status.shm_nattch);
}

static int is(const char *word)
{
	return !strcmp(words[0], word);
}

static void do_segments(void)
{
	if (is("open"))
		do_open();
	else if (is("openat"))
		do_open_nameless();
	else if (is("truncate"))
		outcome(ftruncate(files[number(1)], (off_t)number(2)));
	else if (is("allocate")) {
		errno = posix_fallocate(files[number(1)], 0, (off_t)number(2));
		outcome(errno);
	} else if (is("close"))
		outcome(close(files[number(1)]));
	else if (is("mapfile"))
		do_mapfile();
	else if (is("stat"))
		do_stat();
	else if (is("write"))
		do_write();
	else if (is("read"))
		do_read();
	else if (is("unlink"))
		outcome(shm_unlink(words[1]));
	else if (is("shmget"))
		do_shmget();
	else if (is("shmat"))
		do_shmat();
	else if (is("shmdt"))
		outcome(shmdt(memory[number(1)]));
	else if (is("attached"))
		do_attached();
	else if (is("shmrm"))
		outcome(shmctl((int)number(1), IPC_RMID, NULL));
	else
		printf("what?\n");
}

static void obey(void)
{
	if (is("map"))
		do_map();
	else if (is("unmap"))
		do_unmap();
	else if (is("put"))
		do_touch(1);
	else if (is("get"))
		do_touch(0);
	else if (is("protect"))
		outcome(mprotect(memory[number(1)], sizes[number(1)], PROT_READ | PROT_WRITE));
	else if (is("remap"))
		do_remap();
	else if (is("where"))
		do_where();
	else if (is("threads"))
		do_threads();
	else if (is("signals"))
		do_signals();
	else if (is("fork"))
		do_fork();
	else if (is("children"))
		do_children();
	else if (is("pid"))
		printf("%d\n", getpid());
	else if (is("kill")) /* the child, and wait until it is gone */
		outcome(kill(child, SIGKILL) || waitpid(child, NULL, 0) != child);
	else if (is("wait"))
		outcome(waitpid(child, NULL, 0) != child);
	else if (is("orphan")) { /* go, and leave the child behind */
		printf("ok\n");
		fflush(stdout);
		_exit(0);
	} else if (is("alone"))
		do_alone();
	else if (is("stay")) { /* whatever becomes of the input */
		printf("ok\n");
		fflush(stdout);
		pause();
	} else if (is("exec")) { /* become a program that gives every line back */
		printf("ok\n");
		fflush(stdout);
		execlp("cat", "cat", (char *)NULL);
	} else if (is("exit"))
		exit((int)number(1));
	else
		do_segments();
}

int main(void)
{
	char line[512], whole[512];
	char *rest;
	int i;

	setvbuf(stdin, NULL, _IONBF, 0);
	signal(SIGBUS, on_fault);
	signal(SIGSEGV, on_fault);
	while (fgets(line, sizeof(line), stdin)) {
		if (line[0] == '>')
			pass_down(line + 1);
		else {
			strcpy(whole, line);
			memset(words, 0, sizeof(words));
			words[0] = strtok_r(whole, " \n", &rest);
			for (i = 1; i < WORDS && words[i - 1]; i++)
				words[i] = strtok_r(NULL, " \n", &rest);
			if (words[0])
				obey();
		}
		fflush(stdout);
	}
	return 0;
}

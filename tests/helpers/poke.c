/*
 * poke: a client process for the mount tests, told what to do line by line.
 *
 * It makes system calls and touches memory for a test, because an access to a hole kills
 * the process that makes it, and because many rules speak of another process or user.
 * Of msharefs it knows the functions of msharefs_attach.h alone; tests/helpers/poke.py speaks to it.
 *
 *   call NAME ARG...            a system call; ARG is a number, s:HEX (a string) or
 *                               b:HEX (a buffer, shown again in the answer)
 *   attach FD LEN PROT          msharefs_attach()
 *   detach ADDR                 msharefs_detach()
 *   get ADDR LEN                read memory
 *   put ADDR HEX                write memory
 *   fill ADDR LEN BYTE          write the same byte LEN times
 *   holds ADDR LEN BYTE         1 if all of the bytes are this one, else 0
 *   probe ADDR LEN STEP r|w     touch one byte in each STEP; one digit for each: 1 it is there
 *   fork COMMAND                the same COMMAND, but in a child process
 *   forever COMMAND ; COMMAND   over and over without an answer, until killed
 *
 * Answers: "ok VALUE [HEX...]", "err ERRNO", "sig SIGNAL".
 */
#define _GNU_SOURCE
#include <msharefs_attach.h>

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_LINE (1 << 20)
#define MAX_ARGS 8
#define MAX_STEPS 16

static const struct {
    const char *name;
    long number;
} calls[] = {
#define CALL(name) {#name, SYS_##name}
    CALL(close), CALL(copy_file_range), CALL(dup), CALL(fallocate), CALL(fchmod), CALL(fcntl),
    CALL(fgetxattr), CALL(flock), CALL(fsync), CALL(ftruncate), CALL(getpid), CALL(io_uring_enter),
    CALL(io_uring_register), CALL(io_uring_setup), CALL(ioctl), CALL(linkat), CALL(lseek),
    CALL(madvise), CALL(mbind), CALL(mkdirat), CALL(mlock), CALL(mlockall), CALL(mmap),
    CALL(mprotect),
    CALL(mremap), CALL(msync), CALL(munlock), CALL(munmap), CALL(openat), CALL(pread64),
    CALL(prlimit64), CALL(pwrite64), CALL(read), CALL(renameat2), CALL(sendfile), CALL(splice),
    CALL(unlinkat), CALL(write),
#undef CALL
};

/* A fault while memory is touched comes back here; elsewhere it kills as usual, and system calls
 * are made by a process without handlers, as most are. */
static sigjmp_buf rescue;

static void on_fault(int number)
{
    siglongjmp(rescue, number);
}

static void guard(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler};

    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
}

static int digit(char letter)
{
    return letter <= '9' ? letter - '0' : (letter | 0x20) - 'a' + 10;
}

/* Decode hexadecimal in place; the result is shorter than its text. Returns its length. */
static size_t decode(char *text)
{
    size_t length = strlen(text) / 2;

    for (size_t i = 0; i < length; i++)
        text[i] = (char)(digit(text[2 * i]) << 4 | digit(text[2 * i + 1]));
    return length;
}

static void show(const volatile unsigned char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        printf("%02x", bytes[i]);
}

static unsigned char *address(const char *text)
{
    return (unsigned char *)(uintptr_t)strtoull(text, NULL, 0);
}

static void system_call(char **words)
{
    static char buffers[MAX_ARGS][MAX_LINE / 2 + 1];
    size_t lengths[MAX_ARGS];
    long args[MAX_ARGS] = {0};
    long number = -1, result;

    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        if (words[0] && strcmp(words[0], calls[i].name) == 0)
            number = calls[i].number;
    if (number < 0) {
        printf("err %d\n", ENOSYS);
        return;
    }
    words++;
    for (int i = 0; i < MAX_ARGS && words[i]; i++) {
        lengths[i] = 0;
        if (words[i][1] == ':') {
            /* A copy, because "forever" reads the same words again. */
            strcpy(buffers[i], words[i] + 2);
            lengths[i] = decode(buffers[i]);
            buffers[i][lengths[i]] = 0;
            args[i] = (long)(intptr_t)buffers[i];
        } else if (words[i][0] == '-') {
            args[i] = strtol(words[i], NULL, 0);
        } else {
            args[i] = (long)strtoull(words[i], NULL, 0);
        }
    }
    result = syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
    if (result == -1) {
        printf("err %d\n", errno);
        return;
    }
    printf("ok %ld", result);
    for (int i = 0; i < MAX_ARGS && words[i]; i++)
        if (words[i][0] == 'b' && words[i][1] == ':') {
            putchar(' ');
            show((unsigned char *)buffers[i], lengths[i]);
        }
    putchar('\n');
}

static void attach(char **words)
{
    void *found = msharefs_attach(atoi(words[0]), strtoull(words[1], NULL, 0), atoi(words[2]));

    if (found == MAP_FAILED)
        printf("err %d\n", errno);
    else
        printf("ok %zu\n", (size_t)found);
}

static void detach(char **words)
{
    if (msharefs_detach(address(words[0])))
        printf("err %d\n", errno);
    else
        puts("ok 0");
}

static void get(char **words)
{
    volatile unsigned char *from = address(words[0]);
    size_t length = strtoull(words[1], NULL, 0);
    unsigned char *copy = malloc(length + 1);

    for (size_t i = 0; i < length; i++)
        copy[i] = from[i];
    printf("ok %zu ", length);
    show(copy, length);
    putchar('\n');
    free(copy);
}

static void put(char **words)
{
    volatile unsigned char *to = address(words[0]);
    size_t length = strlen(words[1]) / 2;

    for (size_t i = 0; i < length; i++)
        to[i] = (unsigned char)(digit(words[1][2 * i]) << 4 | digit(words[1][2 * i + 1]));
    printf("ok %zu\n", length);
}

static void fill(char **words)
{
    size_t length = strtoull(words[1], NULL, 0);

    memset(address(words[0]), atoi(words[2]), length);
    printf("ok %zu\n", length);
}

static void holds(char **words)
{
    volatile unsigned char *from = address(words[0]);
    size_t length = strtoull(words[1], NULL, 0);
    unsigned char wanted = (unsigned char)atoi(words[2]);
    size_t i = 0;

    while (i < length && from[i] == wanted)
        i++;
    printf("ok %d\n", i == length);
}

static void probe(char **words)
{
    volatile unsigned char *at = address(words[0]);
    volatile size_t i;
    size_t length = strtoull(words[1], NULL, 0), step = strtoull(words[2], NULL, 0);
    int writing = words[3][0] == 'w';
    volatile size_t reached = 0;
    char *seen = malloc(length / step + 1);

    for (i = 0; i * step < length; i++) {
        if (sigsetjmp(rescue, 1)) {
            seen[i] = '0';
            continue;
        }
        if (writing)
            at[i * step] = at[i * step];
        else
            (void)at[i * step];
        seen[i] = '1';
        reached++;
    }
    printf("ok %zu ", reached);
    show((unsigned char *)seen, i);
    putchar('\n');
    free(seen);
}

static void run(char **words)
{
    int fault;

    if (strcmp(words[0], "call") == 0) {
        system_call(words + 1);
        return;
    }
    if (strcmp(words[0], "attach") == 0 && words[1] && words[2] && words[3]) {
        attach(words + 1);
        return;
    }
    if (strcmp(words[0], "detach") == 0 && words[1]) {
        detach(words + 1);
        return;
    }
    fault = sigsetjmp(rescue, 1);
    if (fault) {
        guard(SIG_DFL);
        printf("sig %d\n", fault);
        return;
    }
    guard(on_fault);
    if (strcmp(words[0], "get") == 0 && words[1] && words[2])
        get(words + 1);
    else if (strcmp(words[0], "put") == 0 && words[1] && words[2])
        put(words + 1);
    else if (strcmp(words[0], "fill") == 0 && words[1] && words[2] && words[3])
        fill(words + 1);
    else if (strcmp(words[0], "holds") == 0 && words[1] && words[2] && words[3])
        holds(words + 1);
    else if (strcmp(words[0], "probe") == 0 && words[1] && words[2] && words[3] && words[4])
        probe(words + 1);
    else
        printf("err %d\n", EINVAL);
    guard(SIG_DFL);
}

static void in_child(char **words)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        run(words);
        fflush(stdout);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0)
        printf("err %d\n", errno);
    else if (WIFSIGNALED(status))
        printf("sig %d\n", WTERMSIG(status));
}

static void forever(char **words)
{
    char **steps[MAX_STEPS] = {words};
    int count = 1;

    for (char **word = words; *word; word++)
        if (strcmp(*word, ";") == 0 && count < MAX_STEPS) {
            *word = NULL;
            steps[count++] = word + 1;
        }
    /* The first answer says that the loop has begun; the others have no reader. */
    puts("ok 0");
    fflush(stdout);
    if (!freopen("/dev/null", "w", stdout))
        _exit(1);
    for (;;)
        for (int i = 0; i < count; i++)
            run(steps[i]);
}

int main(void)
{
    static char line[MAX_LINE];
    char *words[MAX_STEPS * (MAX_ARGS + 2)];

    /* "forever" would outlive a test run that is killed. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (fgets(line, sizeof line, stdin)) {
        size_t count = 0;

        for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
            if (count < sizeof words / sizeof words[0] - 1)
                words[count++] = word;
        words[count] = NULL;
        if (!count)
            continue;
        if (strcmp(words[0], "fork") == 0 && words[1])
            in_child(words + 1);
        else if (strcmp(words[0], "forever") == 0 && words[1])
            forever(words + 1);
        else
            run(words);
        fflush(stdout);
    }
    return 0;
}

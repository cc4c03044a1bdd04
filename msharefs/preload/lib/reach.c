/* SPDX-License-Identifier: MIT */
/*
 * reach.c - programs that the library cannot be loaded into, seen as they are started.
 *
 * The dynamic linker loads it, so there must be one, of the same kind, and it must want to: for
 * programs that run with other rights than their caller's it does not.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HEAD_SIZE 4096
/* A script whose interpreter is a script, and so on: as far as the kernel goes. */
#define SCRIPTS 5

static bool has_other_rights(int fd, const struct stat *status)
{
	int before = errno;
	bool capable = syscall(SYS_fgetxattr, fd, "security.capability", NULL, 0) > 0;

	errno = before;
	return capable || (status->st_mode & S_ISUID && status->st_uid != geteuid()) ||
	       ((status->st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) &&
		status->st_gid != getegid());
}

static const char *judge_elf(const char *head, size_t size)
{
	const Elf64_Ehdr *elf = (const Elf64_Ehdr *)head;
	const Elf64_Phdr *part;
	unsigned int i;

	if (size < sizeof(*elf))
		return NULL;
#ifdef __x86_64__
	if (elf->e_ident[EI_CLASS] != ELFCLASS64 || elf->e_machine != EM_X86_64)
		return "it is of another kind of processor";
#else
	if (elf->e_ident[EI_CLASS] != ELFCLASS64)
		return "it is of another kind of processor";
#endif
	if (elf->e_phentsize != sizeof(*part) ||
	    elf->e_phoff + elf->e_phnum * sizeof(*part) > size)
		return NULL;
	part = (const Elf64_Phdr *)(head + elf->e_phoff);
	for (i = 0; i < elf->e_phnum; i++)
		if (part[i].p_type == PT_INTERP)
			return NULL;
	/* The dynamic linker itself may be started too, with a program as its argument. */
	for (i = 0; i < elf->e_phnum; i++)
		if (part[i].p_type == PT_DYNAMIC && elf->e_type == ET_DYN)
			return NULL;
	return "it is linked statically";
}

/* The interpreter that a script names in its first line. */
static bool find_interpreter(char *head, size_t size, char *path)
{
	char *start = head + 2, *end;

	head[size] = 0;
	start += strspn(start, " \t");
	end = start + strcspn(start, " \t\n");
	if (end == start || end - start >= PATH_MAX)
		return false;
	memcpy(path, start, (size_t)(end - start));
	path[end - start] = 0;
	return true;
}

static const char *judge(const char *path, char *next, bool *script)
{
	char head[HEAD_SIZE + 1];
	const char *reason = NULL;
	long fd = call_open(path, O_RDONLY | O_NONBLOCK), size;
	struct stat status;

	*script = false;
	if (fd < 0)
		return NULL;
	if (!call_fstat((int)fd, &status) && S_ISREG(status.st_mode)) {
		int before = errno;

		size = syscall(SYS_pread64, (int)fd, head, HEAD_SIZE, 0);
		errno = before;
		if (size > 2 && head[0] == '#' && head[1] == '!')
			*script = find_interpreter(head, (size_t)size, next);
		else if (has_other_rights((int)fd, &status))
			reason = "it runs with other rights than its caller";
		else if (size > SELFMAG && !memcmp(head, ELFMAG, SELFMAG))
			reason = judge_elf(head, (size_t)size);
	}
	call_close((int)fd);
	return reason;
}

/* Why the program cannot have its memory in the region, or NULL. */
HOOK const char *msharefs_out_of_reach(const char *path);

HOOK const char *msharefs_out_of_reach(const char *path)
{
	char names[2][PATH_MAX];
	const char *reason;
	bool script;
	int i;

	for (i = 0; i < SCRIPTS; i++) {
		reason = judge(path, names[i % 2], &script);
		if (!script)
			return reason;
		path = names[i % 2];
	}
	return NULL;
}

static bool names_the_run(char *const *environment)
{
	bool run = false, library = false;

	for (; environment && *environment; environment++) {
		run |= !strncmp(*environment, "MSHAREFS_RUN=", strlen("MSHAREFS_RUN="));
		library |= !strncmp(*environment, "LD_PRELOAD=", strlen("LD_PRELOAD="));
	}
	return run && library;
}

/* Whether the program may be started; says what there is to say. */
static bool may_start(const char *path, char *const *environment)
{
	const struct settings *run = settings();
	const char *reason;

	if (!run || !path || (!run->verbose && !run->strict))
		return true;
	reason = msharefs_out_of_reach(path);
	if (!reason && !names_the_run(environment))
		reason = "its environment does not name the library";
	if (!reason)
		return true;
	say_out_of_reach(path, reason);
	return !run->strict;
}

/* As execvp(3) looks for it. */
static const char *find(const char *file, char *path)
{
	const char *at = getenv("PATH"), *end;
	size_t length;

	if (!file || strchr(file, '/') || !at)
		return file;
	for (;; at = end + 1) {
		end = strchrnul(at, ':');
		length = (size_t)(end - at);
		if (length + strlen(file) + 2 < PATH_MAX) {
			memcpy(path, at, length);
			path[length] = 0;
			strcat(path, length ? "/" : "");
			strcat(path, file);
			if (!access(path, X_OK))
				return path;
		}
		if (!*end)
			return NULL;
	}
}

static int start(const char *path, char *const *words, char *const *environment)
{
	if (!may_start(path, environment))
		syscall(SYS_exit_group, EXIT_RUN_FAILED);
	return (int)syscall(SYS_execve, path, words, environment);
}

static int start_file(const char *file, char *const *words, char *const *environment)
{
	static int (*next)(const char *, char *const *, char *const *);
	char path[PATH_MAX];
	int before = errno;

	if (!next)
		next = (int (*)(const char *, char *const *, char *const *))dlsym(RTLD_NEXT, "execvpe");
	if (!may_start(find(file, path), environment))
		syscall(SYS_exit_group, EXIT_RUN_FAILED);
	errno = before;
	return next ? next(file, words, environment) : (int)answer(-ENOSYS);
}

HOOK int execve(const char *path, char *const words[], char *const environment[])
{
	return start(path, words, environment);
}

HOOK int execv(const char *path, char *const words[])
{
	return start(path, words, environ);
}

HOOK int execvp(const char *file, char *const words[])
{
	return start_file(file, words, environ);
}

HOOK int execvpe(const char *file, char *const words[], char *const environment[])
{
	return start_file(file, words, environment);
}

static int count(va_list list)
{
	va_list rest;
	int found = 1;

	va_copy(rest, list);
	while (va_arg(rest, char *))
		found++;
	va_end(rest);
	return found;
}

/* The words of a call with each of them as an argument; the last one is NULL. */
static void collect(char **words, const char *first, va_list *list)
{
	*words++ = (char *)first;
	do
		*words = va_arg(*list, char *);
	while (*words++);
}

HOOK int execl(const char *path, const char *word, ...)
{
	va_list list;

	va_start(list, word);
	{
		char *words[count(list) + 1];

		collect(words, word, &list);
		va_end(list);
		return start(path, words, environ);
	}
}

HOOK int execlp(const char *file, const char *word, ...)
{
	va_list list;

	va_start(list, word);
	{
		char *words[count(list) + 1];

		collect(words, word, &list);
		va_end(list);
		return start_file(file, words, environ);
	}
}

HOOK int execle(const char *path, const char *word, ...)
{
	va_list list;

	va_start(list, word);
	{
		char *words[count(list) + 1];
		char **environment;

		collect(words, word, &list);
		environment = va_arg(list, char **);
		va_end(list);
		return start(path, words, environment);
	}
}

typedef int spawn(pid_t *, const char *, const posix_spawn_file_actions_t *,
		  const posix_spawnattr_t *, char *const *, char *const *);

HOOK int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		     const posix_spawnattr_t *attributes, char *const words[],
		     char *const environment[])
{
	static spawn *next;

	if (!next)
		next = (spawn *)dlsym(RTLD_NEXT, "posix_spawn");
	if (!may_start(path, environment))
		return ENOEXEC;
	return next ? next(pid, path, actions, attributes, words, environment) : ENOSYS;
}

HOOK int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
		      const posix_spawnattr_t *attributes, char *const words[],
		      char *const environment[])
{
	static spawn *next;
	char path[PATH_MAX];

	if (!next)
		next = (spawn *)dlsym(RTLD_NEXT, "posix_spawnp");
	if (!may_start(find(file, path), environment))
		return ENOEXEC;
	return next ? next(pid, file, actions, attributes, words, environment) : ENOSYS;
}

/* SPDX-License-Identifier: MIT */
/*
 * msharefs_attach.h - attach a region as fast as its mount allows.
 *
 *     void *msharefs_attach(int fd, size_t size, int prot);
 *     int msharefs_claim(int fd);
 *     int msharefs_attached(const void *address);
 *     int msharefs_detach(void *address);
 *
 * msharefs_attach() is mmap(NULL, size, prot, MAP_SHARED, fd, 0) for a region, which
 * works on every mount.  On one with the direct data plane (an ordinary user's) it maps
 * the memory of the region itself: no touch goes to the daemon, and page tables are
 * small.  Everywhere else, and for files that are no regions, it is that mmap.
 *
 * There is no library: include this wherever it is used.  It needs the C library of
 * Linux and compiles as C89 and as C++11, with all warnings.  Nothing is kept outside
 * of the attachments, so any thread may call it; names with msharefs__ are its own.
 */
#ifndef MSHAREFS_ATTACH_H
#define MSHAREFS_ATTACH_H

#include <msharefs.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

/* What a program hides that asks for a standard of C alone. */
#ifndef MAP_ANONYMOUS
#include <asm/mman.h>
#endif
#ifndef SO_PEERCRED
#include <asm/socket.h>
#endif
#ifndef __cplusplus
extern long syscall(long number, ...);
extern int madvise(void *address, size_t size, int advice);
#endif

/* Bits of msharefs_attached(). */

/* The memory of the region itself is mapped. */
#define MSHAREFS_DIRECT 1

/* A touch of a byte with nothing mapped is SIGBUS.  Always so where MSHAREFS_DIRECT is
 * not; else where userfaultfd(2) can be had and the region is attached by a descriptor
 * that is open for writing.  Without it such a byte reads as zero, what is written
 * there is lost, and so it is in a child of fork(2). */
#define MSHAREFS_FENCED 2

#define MSHAREFS__UNUSED __attribute__((__unused__))
#define MSHAREFS__UNIT ((size_t)2 << 20)
#define MSHAREFS__TRIES 100
#define MSHAREFS__LONGEST_PAUSE 100 /* ms: with so many tries, ten seconds */
#define MSHAREFS__DUP_CLOEXEC 1030 /* F_DUPFD_CLOEXEC */
#define MSHAREFS__USER_MODE_ONLY 1 /* UFFD_USER_MODE_ONLY, Linux 5.11 */
#define MSHAREFS__SIGBUS (1 << 7)  /* UFFD_FEATURE_SIGBUS */
#define MSHAREFS__MARK 0x6d736861UL

/* What an attachment needs to end: in a page of its own before the first byte. */
struct msharefs__book {
	unsigned long mark;
	size_t size;	/* in bytes, whole pages */
	size_t page;
	int region;	/* a duplicate of the region's descriptor, which tells the server
			 * that the region is in use, or -1 */
	int fence;	/* of userfaultfd(2), or -1 */
};

/* struct ucred, which <sys/socket.h> has for _GNU_SOURCE alone. */
struct msharefs__peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

static MSHAREFS__UNUSED void msharefs__close(int fd)
{
	int before = errno;

	if (fd >= 0)
		close(fd);
	errno = before;
}

/* A connection to the server that has given `where`; -1, with ECONNREFUSED where it is gone. */
static MSHAREFS__UNUSED int msharefs__connect(const struct mshare_attach *where)
{
	struct msharefs__peer peer;
	struct sockaddr_un name;
	socklen_t length = sizeof peer;
	size_t used = strlen(where->address);
	int peered, failed, with;

	if (used >= sizeof where->address) {
		errno = EPROTO;
		return -1;
	}
	memset(&name, 0, sizeof name);
	name.sun_family = AF_UNIX;
	memcpy(name.sun_path + 1, where->address, used);
	with = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (with < 0)
		return -1;
	do {
		failed = connect(with, (const struct sockaddr *)&name,
				 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + used));
	} while (failed && errno == EINTR);
	if (failed) {
		msharefs__close(with);
		return -1;
	}
	/* Anybody may bind the name of a server that has ended. */
	peered = getsockopt(with, SOL_SOCKET, SO_PEERCRED, &peer, &length);
	if (peered || peer.uid != where->uid) {
		msharefs__close(with);
		errno = EACCES;
		return -1;
	}
	return with;
}

/* The descriptor that a token stands for; -1 and why: ESTALE where it should be asked for again. */
static MSHAREFS__UNUSED int msharefs__redeem(int with, const struct mshare_attach *where)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct cmsghdr *head;
	struct msghdr message;
	struct iovec part;
	ssize_t count;
	int answer = 0, found = -1;

	do {
		count = send(with, where->token, sizeof where->token, MSG_NOSIGNAL);
	} while (count < 0 && errno == EINTR);
	memset(&message, 0, sizeof message);
	part.iov_base = &answer;
	part.iov_len = sizeof answer;
	message.msg_iov = &part;
	message.msg_iovlen = 1;
	message.msg_control = &control;
	message.msg_controllen = sizeof control;
	if (count >= 0) {
		do {
			count = recvmsg(with, &message, MSG_CMSG_CLOEXEC);
		} while (count < 0 && errno == EINTR);
	}
	if (count != (ssize_t)sizeof answer) {
		/* It ended before it answered. */
		errno = ESTALE;
		return -1;
	}
	head = CMSG_FIRSTHDR(&message);
	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS)
		memcpy(&found, CMSG_DATA(head), sizeof found);
	if (answer || found < 0) {
		msharefs__close(found);
		/* None could be given to us: this process has as many open as it may. */
		errno = answer ? answer : EMFILE;
		return -1;
	}
	return found;
}

/* A descriptor of the memory of the region that is open as `fd`, by one attempt of the ioctl that
 * is asked for, which fills in `where`; -1 and why not. */
static MSHAREFS__UNUSED int msharefs__try(int fd, unsigned long asked, struct mshare_attach *where)
{
	int found, with;

	/* Waits for the next server where one has ended. */
	do {
		found = ioctl(fd, asked, where);
	} while (found && errno == EINTR);
	if (found)
		return -1;
	with = msharefs__connect(where);
	if (with < 0)
		return -1;
	found = msharefs__redeem(with, where);
	msharefs__close(with);
	return found;
}

/* The same. A change of the region may be on its way, which takes as long as its memory does, or
 * a server has ended: then it is tried again for some seconds. ECONNREFUSED twice by one address,
 * which the next server would not have, is a server in another network namespace. */
static MSHAREFS__UNUSED int msharefs__segment(int fd, unsigned long asked)
{
	struct mshare_attach where, refused;
	int found, tries, pause = 1;

	memset(&refused, 0, sizeof refused);
	memset(&where, 0, sizeof where);
	for (tries = 0; tries < MSHAREFS__TRIES; tries++) {
		found = msharefs__try(fd, asked, &where);
		if (found >= 0 || (errno != ESTALE && errno != ECONNREFUSED))
			return found;
		if (errno == ECONNREFUSED) {
			if (!memcmp(refused.address, where.address, sizeof refused.address))
				return -1;
			refused = where;
		}
		poll(NULL, 0, pause);
		pause = pause < MSHAREFS__LONGEST_PAUSE / 2 ? 2 * pause : MSHAREFS__LONGEST_PAUSE;
	}
	errno = ESTALE;
	return -1;
}

/* Have a touch of a page that a segment does not have be SIGBUS; -1 where that cannot be had. */
static MSHAREFS__UNUSED int msharefs__fence(void *address, size_t size)
{
	struct uffdio_api api;
	struct uffdio_register range;
	int flags = O_NONBLOCK | MSHAREFS__USER_MODE_ONLY;
	int fence = -1;

#ifdef SYS_userfaultfd
	fence = (int)syscall(SYS_userfaultfd, flags);
#endif
	if (fence < 0)
		return -1;
	memset(&api, 0, sizeof api);
	api.api = UFFD_API;
	api.features = MSHAREFS__SIGBUS;
	memset(&range, 0, sizeof range);
	range.range.start = (size_t)address;
	range.range.len = size;
	range.mode = UFFDIO_REGISTER_MODE_MISSING;
	if (fcntl(fence, F_SETFD, FD_CLOEXEC) || ioctl(fence, UFFDIO_API, &api) ||
	    ioctl(fence, UFFDIO_REGISTER, &range)) {
		msharefs__close(fence);
		return -1;
	}
	return fence;
}

/* Room for `size` bytes at a multiple of 2 MiB, which is what huge pages need, with a
 * page before it; NULL. */
static MSHAREFS__UNUSED char *msharefs__room(size_t size, size_t page)
{
	size_t whole = page + MSHAREFS__UNIT + size;
	char *room, *start;
	size_t before;

	if (whole < size) {
		errno = ENOMEM;
		return NULL;
	}
	room = (char *)mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == (char *)MAP_FAILED)
		return NULL;
	before = MSHAREFS__UNIT - ((size_t)room + page) % MSHAREFS__UNIT;
	before %= MSHAREFS__UNIT;
	start = room + before + page;
	if (before)
		munmap(room, before);
	munmap(start + size, whole - before - page - size);
	if (mprotect(start - page, page, PROT_READ | PROT_WRITE)) {
		munmap(start - page, page + size);
		return NULL;
	}
	return start;
}

/* What a mount wants a mapping to be advised with, that touches read further ahead. */
static MSHAREFS__UNUSED void msharefs__advise(int fd, void *address, size_t size)
{
	char text[16];
	int before = errno;
	ssize_t length = fgetxattr(fd, "user.msharefs.advice", text, sizeof text - 1);

	if (length > 0) {
		text[length] = '\0';
		madvise(address, size, atoi(text));
	}
	errno = before;
}

/* Map the segment, which is closed then, where there is room for it; 0, or -1 and why not. */
static MSHAREFS__UNUSED int msharefs__map_segment(int fd, int segment, int prot, char *start,
						  struct msharefs__book *book)
{
	void *at = MAP_FAILED;

	book->region = (int)fcntl(fd, MSHAREFS__DUP_CLOEXEC, 0);
	if (book->region >= 0)
		at = mmap(start, book->size, prot, MAP_SHARED | MAP_FIXED, segment, 0);
	msharefs__close(segment);
	if (at == MAP_FAILED)
		return -1;
	book->fence = msharefs__fence(start, book->size);
	return 0;
}

/* Map the file itself, which a mapping keeps open by itself; the same. */
static MSHAREFS__UNUSED int msharefs__map_file(int fd, int prot, char *start,
					       const struct msharefs__book *book)
{
	if (mmap(start, book->size, prot, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return -1;
	msharefs__advise(fd, start, book->size);
	return 0;
}

/* Map the one or the other; the same. */
static MSHAREFS__UNUSED int msharefs__map(int fd, int prot, char *start, struct msharefs__book *book)
{
	int segment = msharefs__segment(fd, MSHAREFS_ATTACH);

	if (segment >= 0)
		return msharefs__map_segment(fd, segment, prot, start, book);
	/* Others may have the memory: a touch of the file would be SIGBUS then. */
	if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENODEV)
		return -1;
	return msharefs__map_file(fd, prot, start, book);
}

/*
 * Attach the first `size` bytes of the region that is open as `fd`, at a multiple of
 * 2 MiB.  `prot` is that of mmap(2); a size that is no multiple of the page size is
 * rounded up.  The descriptor may be closed afterwards.
 *
 * Returns the address, or MAP_FAILED with errno as mmap(2) has it; besides:
 *   EINVAL  the region has no size yet
 *   ENODEV  others have attached it directly, and this program cannot
 *   EMFILE  two more descriptors are needed, for as long as it is attached
 *   ENFILE  the server has no descriptor left for it
 */
static MSHAREFS__UNUSED void *msharefs_attach(int fd, size_t size, int prot)
{
	struct msharefs__book book;
	struct stat facts;
	char *start;
	int failed, before = errno;

	if (fstat(fd, &facts))
		return MAP_FAILED;
	memset(&book, 0, sizeof book);
	book.mark = MSHAREFS__MARK;
	book.region = book.fence = -1;
	book.page = (size_t)sysconf(_SC_PAGESIZE);
	book.size = (size + book.page - 1) / book.page * book.page;
	if (!facts.st_size || !book.size) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	start = msharefs__room(book.size, book.page);
	if (!start)
		return MAP_FAILED;
	if (msharefs__map(fd, prot, start, &book)) {
		failed = errno;
		munmap(start - book.page, book.page + book.size);
		msharefs__close(book.region);
		errno = failed;
		return MAP_FAILED;
	}
	memcpy(start - book.page, &book, sizeof book);
	errno = before;
	return start;
}

/* Whose page before `address` says how it was attached; NULL. */
static MSHAREFS__UNUSED const struct msharefs__book *msharefs__book_of(const void *address)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	const struct msharefs__book *book =
		(const struct msharefs__book *)(const void *)((const char *)address - page);

	if (!address || (size_t)address % MSHAREFS__UNIT || book->mark != MSHAREFS__MARK) {
		errno = EINVAL;
		return NULL;
	}
	return book;
}

/*
 * How the region at `address`, which msharefs_attach() has returned, is attached:
 * MSHAREFS_DIRECT, MSHAREFS_FENCED or both.
 */
static MSHAREFS__UNUSED int msharefs_attached(const void *address)
{
	const struct msharefs__book *book = msharefs__book_of(address);

	if (!book)
		return -1;
	if (book->region < 0)
		return MSHAREFS_FENCED;
	return MSHAREFS_DIRECT | (book->fence < 0 ? 0 : MSHAREFS_FENCED);
}

/*
 * Have a region attached directly by all, also on an ordinary user's mount that does so only
 * where it is claimed (data=auto): from now on, and until its last descriptor is closed, a
 * touch of what mmap(2) of its file gives is SIGBUS.  `fd` is open for reading and writing,
 * and the only descriptor of the region that anybody has opened.
 *
 * Returns 0, or -1 with errno: EBUSY where others have it open or have mapped it, ENOTTY
 * where the mount maps the memory itself by mmap(2) or can never give it.  It can be
 * attached then as before.
 */
static MSHAREFS__UNUSED int msharefs_claim(int fd)
{
	int segment = msharefs__segment(fd, MSHAREFS_CLAIM);

	if (segment < 0)
		return -1;
	msharefs__close(segment);
	return 0;
}

/*
 * End what msharefs_attach() has returned.  munmap(2) of its bytes would leave its
 * descriptors.  Returns 0, or -1 with EINVAL for another address.
 */
static MSHAREFS__UNUSED int msharefs_detach(void *address)
{
	const struct msharefs__book *found = msharefs__book_of(address);
	struct msharefs__book book;

	if (!found)
		return -1;
	book = *found;
	if (munmap((char *)address - book.page, book.page + book.size))
		return -1;
	/* The region is in use as long as it is mapped. */
	msharefs__close(book.fence);
	msharefs__close(book.region);
	return 0;
}

#endif /* MSHAREFS_ATTACH_H */

/*
 * The smallest C file system that is fair to compare with: what a round trip
 * through FUSE costs when the daemon does nothing, or only what the kernel has to do.
 *
 * One directory with regular files that can be created, sized, opened, closed
 * and unlinked, and that answer two ioctls with success; with MEMORY they first give a
 * range of that file memory and take it away, as CREATE_MAPPING and UNMAP do. There are
 * no extended attributes, which is said each time, as msharefs must. Entries and attributes
 * are cached by the kernel without limit, one thread serves, FLUSH is refused
 * once (libfuse does so for a missing handler) and never sent again: the same
 * as msharefs does, so that both get the same requests.
 *
 * usage: cfs MOUNTPOINT [MEMORY]     (foreground; says "mounted" on stdout; ends at umount)
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <msharefs.h>

static const double FOR_EVER = 1e9; /* seconds */
#define MEMORY_SIZE (64L << 20)

struct file {
	struct file *next; /* in the directory, while linked */
	uint64_t lookups;
	int linked;
	struct stat attr;
	char name[256];
};

static struct file *directory;
static int memory = -1;

/* A node id is the address of its file: no table to search. */
static struct file *file_of(fuse_ino_t ino)
{
	return (struct file *)(uintptr_t)ino;
}

static struct file **find(const char *name)
{
	struct file **at = &directory;

	while (*at && strcmp((*at)->name, name) != 0)
		at = &(*at)->next;
	return at;
}

static void free_if_unused(struct file *f)
{
	if (!f->linked && f->lookups == 0)
		free(f);
}

static struct fuse_entry_param entry_of(struct file *f)
{
	struct fuse_entry_param entry = {
		.ino = (uintptr_t)f,
		.attr = f->attr,
		.attr_timeout = FOR_EVER,
		.entry_timeout = FOR_EVER,
	};

	f->lookups++;
	return entry;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct file *f = *find(name);
	struct fuse_entry_param entry = {0};

	(void)parent;
	if (f)
		entry = entry_of(f);
	else
		entry.entry_timeout = FOR_EVER; /* ino 0: a cached "no such file" */
	fuse_reply_entry(req, &entry);
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	if (ino != FUSE_ROOT_ID) {
		struct file *f = file_of(ino);

		f->lookups -= count;
		free_if_unused(f);
	}
	fuse_reply_none(req);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat root = {.st_ino = FUSE_ROOT_ID, .st_mode = S_IFDIR | 0777, .st_nlink = 2};

	(void)fi;
	fuse_reply_attr(req, ino == FUSE_ROOT_ID ? &root : &file_of(ino)->attr, FOR_EVER);
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		       struct fuse_file_info *fi)
{
	(void)fi;
	if (ino == FUSE_ROOT_ID || !(to_set & FUSE_SET_ATTR_SIZE)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	file_of(ino)->attr.st_size = attr->st_size;
	fuse_reply_attr(req, &file_of(ino)->attr, FOR_EVER);
}

static void do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		      struct fuse_file_info *fi)
{
	const struct fuse_ctx *caller = fuse_req_ctx(req);
	struct fuse_entry_param entry;
	struct file *f;

	(void)parent;
	if (strlen(name) >= sizeof(f->name)) {
		fuse_reply_err(req, ENAMETOOLONG);
		return;
	}
	if (*find(name)) {
		fuse_reply_err(req, EEXIST);
		return;
	}
	f = calloc(1, sizeof(*f));
	if (!f) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	strcpy(f->name, name);
	f->attr.st_ino = (uintptr_t)f;
	f->attr.st_mode = S_IFREG | (mode & 07777);
	f->attr.st_nlink = 1;
	f->attr.st_uid = caller->uid;
	f->attr.st_gid = caller->gid;
	clock_gettime(CLOCK_REALTIME, &f->attr.st_mtim);
	f->attr.st_atim = f->attr.st_ctim = f->attr.st_mtim;
	f->linked = 1;
	f->next = directory;
	directory = f;
	entry = entry_of(f);
	fuse_reply_create(req, &entry, fi);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fuse_reply_open(req, fi);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct file **at = find(name);
	struct file *f = *at;

	(void)parent;
	if (!f) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	*at = f->next;
	f->linked = 0;
	f->attr.st_nlink = 0;
	free_if_unused(f);
	fuse_reply_err(req, 0);
}

static void do_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	(void)ino;
	(void)name;
	(void)size;
	fuse_reply_err(req, ENODATA);
}

/* What an ioctl means for the memory; 0 or an errno. */
static int change_memory(unsigned int cmd, const void *in)
{
	if (memory < 0)
		return 0;
	if (cmd == MSHAREFS_CREATE_MAPPING) {
		const struct mshare_create *wanted = in;

		return posix_fallocate(memory, (off_t)wanted->region_offset, (off_t)wanted->size);
	}
	const struct mshare_unmap *gone = in;
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	if (fallocate(memory, mode, (off_t)gone->region_offset, (off_t)gone->size) != 0)
		return errno;
	return 0;
}

static void do_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg,
		     struct fuse_file_info *fi, unsigned int flags, const void *in, size_t in_size,
		     size_t out_size)
{
	(void)ino;
	(void)arg;
	(void)fi;
	(void)flags;
	(void)in_size;
	(void)out_size;
	int error = ENOTTY;

	if (cmd == MSHAREFS_CREATE_MAPPING || cmd == MSHAREFS_UNMAP)
		error = change_memory(cmd, in);
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_ioctl(req, 0, NULL, 0);
}

static const struct fuse_lowlevel_ops operations = {
	.lookup = do_lookup,
	.forget = do_forget,
	.getattr = do_getattr,
	.setattr = do_setattr,
	.create = do_create,
	.open = do_open,
	.unlink = do_unlink,
	.getxattr = do_getxattr,
	.ioctl = do_ioctl,
};

int main(int argc, char **argv)
{
	char *fuse_argv[] = {argv[0], "-o", "fsname=cfs,subtype=cfs,allow_other,default_permissions"};
	struct fuse_args args = FUSE_ARGS_INIT(3, fuse_argv);
	struct fuse_session *session;
	int status = 1;

	if (argc != 2 && argc != 3) {
		fprintf(stderr, "usage: cfs MOUNTPOINT [MEMORY]\n");
		return 2;
	}
	if (argc == 3) {
		memory = open(argv[2], O_RDWR | O_CREAT, 0600);
		if (memory < 0 || ftruncate(memory, MEMORY_SIZE) != 0) {
			perror(argv[2]);
			return 1;
		}
	}
	session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
	if (!session)
		return 1;
	if (fuse_set_signal_handlers(session) == 0) {
		if (fuse_session_mount(session, argv[1]) == 0) {
			puts("mounted");
			fflush(stdout);
			status = fuse_session_loop(session) == 0 ? 0 : 1;
			fuse_session_unmount(session);
		}
		fuse_remove_signal_handlers(session);
	}
	fuse_session_destroy(session);
	return status;
}

/* SPDX-License-Identifier: MIT */
/*
 * msharefs.h - what a program needs to share memory through a mounted msharefs.
 *
 * A region is a file on the mount.  In order:
 *
 *   1. read the file "mshare_info" in the root of the mount: a decimal number and
 *      a newline, the alignment in bytes;
 *   2. open(2) a file there with O_RDWR | O_CREAT and give it a size with
 *      ftruncate(2): a multiple of the alignment, once and for ever.  The size
 *      costs no memory;
 *   3. ioctl(2) MSHAREFS_CREATE_MAPPING puts memory at some of its bytes;
 *   4. mmap(2) with MAP_SHARED attaches the region, in this and in any other
 *      process that opens the file.  Bytes with nothing mapped give SIGBUS;
 *   5. ioctl(2) MSHAREFS_UNMAP takes memory away from all of them; munmap(2),
 *      close(2) and unlink(2) end the region.
 *
 * Leave the address to mmap(2).  Programs written for the kernel's mshare map at
 * multiples of its alignment, 512 GiB.  With MAP_FIXED at multiples of 2 MiB, the
 * usual alignment here, a program maps the region over itself: twice 2 MiB is
 * 0x400000, the text of one that is not position independent.  For programs that
 * cannot be changed there are linux/msharefs.h and the mount option align=512G.
 *
 * Both ioctls want a descriptor that is open for writing.  They return 0, or -1
 * with errno and nothing changed.  The page size is that of sysconf(_SC_PAGESIZE).
 */
#ifndef MSHAREFS_H
#define MSHAREFS_H

#include <linux/types.h>
#include <sys/ioctl.h>

/*
 * Argument of MSHAREFS_CREATE_MAPPING: what mmap(2) would map at an address of a
 * process is mapped at an offset of the region, for all processes.
 *
 * Errors:
 *   EINVAL  the region has no size yet; size is 0; region_offset is not page
 *           aligned; the range is not inside the region; flags are not as below
 *   EACCES  the descriptor is not open for writing, or fd does not allow prot
 *   EEXIST  MAP_FIXED_NOREPLACE, and something is mapped in the range
 *   ENOMEM  no memory, over the size of the mount, or too many mappings
 *   EBADF   no MAP_ANONYMOUS, and fd is not open
 *   ENODEV  no MAP_ANONYMOUS, and fd is no file whose bytes can be mapped
 *   EPERM   no MAP_ANONYMOUS, and fd is sealed or prot has PROT_EXEC, or the mount
 *           may not look into the caller
 *   ENOTTY  the descriptor is not that of a region
 */
struct mshare_create {
	/* Where in the region, in bytes: a multiple of the page size, or of 2 MiB
	 * with MAP_HUGETLB. */
	__u64 region_offset;

	/* How many bytes, more than 0; rounded up to the page size, or to 2 MiB with
	 * MAP_HUGETLB.  The end must not lie beyond the end of the region. */
	__u64 size;

	/* Where in the file fd, in bytes: a multiple of the page size.  Not looked at
	 * with MAP_ANONYMOUS. */
	__u64 offset;

	/* PROT_READ, PROT_WRITE and PROT_EXEC, or'ed; 0 is PROT_NONE.  Other bits are
	 * ignored. */
	__u32 prot;

	/* MAP_SHARED and MAP_FIXED, both needed; MAP_ANONYMOUS for memory of zeros,
	 * else a copy of the bytes of fd, which with PROT_WRITE go back to the file.
	 * What was mapped in the range is replaced, unless MAP_FIXED_NOREPLACE
	 * forbids it.  The memory is set aside at once; with MAP_NORESERVE the
	 * mount decides whether it is, or comes at first touch.  MAP_HUGETLB wants pages of 2 MiB.  MAP_PRIVATE and
	 * MAP_GROWSDOWN are refused; all other flags of mmap(2) are allowed and change
	 * nothing.  MAP_LOCKED is one of those: it does not keep memory from swap. */
	__u32 flags;

	/* An open file of the calling process; -1 with MAP_ANONYMOUS. */
	__u32 fd;

	/* Four bytes of padding follow where a __u64 is aligned to eight; nobody
	 * looks at them. */
};

/*
 * Argument of MSHAREFS_UNMAP: what is mapped in a range of the region goes, from
 * every process at once.  Mappings are cut or split at the range's ends.  A range
 * with nothing in it is no error.
 *
 * Errors:
 *   EINVAL  the region has no size yet; size is 0; region_offset is not page
 *           aligned; the range is not inside the region
 *   EACCES  the descriptor is not open for writing
 *   ENOTTY  the descriptor is not that of a region
 */
struct mshare_unmap {
	/* Where in the region, in bytes: a multiple of the page size. */
	__u64 region_offset;

	/* How many bytes, more than 0; rounded up to the page size. */
	__u64 size;
};

/*
 * Answer of MSHAREFS_ATTACH and MSHAREFS_CLAIM: how a program gets the memory of a region
 * itself, on an ordinary user's mount.  mmap(2) of the region's file needs none of it.
 * What is to be done with it stands in docs/design/direct.md.
 *
 * With data=direct anybody may attach a region so, and does it for all who have it open.
 * With data=auto only a region that was claimed: by who has it open for himself so far, and
 * wants nobody to map its file until its last descriptor is closed.
 *
 * Errors:
 *   ENOTTY  the descriptor is not that of a region, or the mount has no such way
 *   EBUSY   the region is mapped by mmap(2) of its file, or has MAP_NORESERVE memory;
 *           with data=auto, it is not claimed, or cannot be: others have it open
 *   EINVAL  the region has no size yet
 *   EACCES  the descriptor is open for writing alone; to claim, for reading alone
 */
struct mshare_attach {
	/* Random bytes, which serve once, within ten seconds. */
	__u8 token[16];

	/* The user whose process has to be at the address, as SO_PEERCRED tells it. */
	__u32 uid;

	/* 0. */
	__u32 reserved;

	/* The abstract name of a socket (AF_UNIX, SOCK_SEQPACKET); a 0 ends it. */
	char address[40];
};

/* The second argument of ioctl(2); the third is a pointer to the struct. */
#define MSHAREFS_CREATE_MAPPING _IOW('x', 0, struct mshare_create)
#define MSHAREFS_UNMAP _IOW('x', 1, struct mshare_unmap)
#define MSHAREFS_ATTACH _IOR('x', 2, struct mshare_attach)
#define MSHAREFS_CLAIM _IOR('x', 3, struct mshare_attach)

#endif /* MSHAREFS_H */

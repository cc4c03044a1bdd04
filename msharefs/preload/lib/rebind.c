/* SPDX-License-Identifier: MIT */
/*
 * rebind.c - libraries that are loaded with RTLD_DEEPBIND, as PHP loads its extensions.
 *
 * Such a library looks for a name in itself and in what it needs, the C library among it, before
 * it looks among what was preloaded.  So its calls would go past this library.  When it has
 * been loaded, its tables of addresses are set to what the program itself would have got.
 *
 * Only a path with a slash is loaded from here: for a bare name the linker also searches where
 * the caller says, and the caller would be this library.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>

static void *(*next_dlopen)(const char *, int);

__attribute__((constructor)) static void find_next(void)
{
	next_dlopen = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
}

struct tables {
	const ElfW(Sym) *symbols;
	const char *names;
	uintptr_t base;
	const void *own; /* where this library is loaded */
};

/* Where this library has the name, or NULL. */
static void *ours(const struct tables *tables, const char *name)
{
	void *found = *name ? dlsym(RTLD_DEFAULT, name) : NULL;
	Dl_info info;

	return found && dladdr(found, &info) && info.dli_fbase == tables->own ? found : NULL;
}

struct sealed {
	uintptr_t base;
	uintptr_t start;
	uintptr_t end;
};

static int find_sealed(struct dl_phdr_info *info, size_t size, void *wanted)
{
	struct sealed *sealed = wanted;
	int i;

	(void)size;
	if (info->dlpi_addr != sealed->base)
		return 0;
	for (i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_GNU_RELRO) {
			sealed->start = sealed->base + info->dlpi_phdr[i].p_vaddr;
			sealed->end = sealed->start + info->dlpi_phdr[i].p_memsz;
		}
	return 1;
}

/* What the linker has made read-only (RELRO) is so again. */
static void seal(uintptr_t base)
{
	struct sealed sealed = {.base = base};
	uintptr_t page = settings()->page;

	dl_iterate_phdr(find_sealed, &sealed);
	sealed.start = sealed.start / page * page;
	sealed.end = sealed.end / page * page;
	if (sealed.start < sealed.end)
		mprotect((void *)sealed.start, sealed.end - sealed.start, PROT_READ);
}

static void set_address(void **place, void *address)
{
	uintptr_t page = settings()->page;
	void *start = (void *)((uintptr_t)place / page * page);

	if (*place == address)
		return;
	if (mprotect(start, page, PROT_READ | PROT_WRITE))
		return;
	__atomic_store_n(place, address, __ATOMIC_RELEASE);
}

static void rebind_table(const struct tables *tables, const ElfW(Rela) *entries, size_t size)
{
	size_t i;

	for (i = 0; i < size / sizeof(*entries); i++) {
		const ElfW(Sym) *symbol = &tables->symbols[ELF64_R_SYM(entries[i].r_info)];
		void *address;

		/* A plain address in a table: of a function to be called, or of one to be kept. */
		if (!ELF64_R_SYM(entries[i].r_info) || symbol->st_shndx != SHN_UNDEF ||
		    entries[i].r_addend)
			continue;
		address = ours(tables, tables->names + symbol->st_name);
		if (address)
			set_address((void **)(tables->base + entries[i].r_offset), address);
	}
}

static void rebind(const struct link_map *map, const void *own)
{
	struct tables tables = {.base = map->l_addr, .own = own};
	const ElfW(Rela) *relocations = NULL, *calls = NULL;
	size_t relocations_size = 0, calls_size = 0;
	const ElfW(Dyn) *entry;

	for (entry = map->l_ld; entry->d_tag != DT_NULL; entry++)
		switch (entry->d_tag) {
		case DT_SYMTAB:
			tables.symbols = (const ElfW(Sym) *)entry->d_un.d_ptr;
			break;
		case DT_STRTAB:
			tables.names = (const char *)entry->d_un.d_ptr;
			break;
		case DT_RELA:
			relocations = (const ElfW(Rela) *)entry->d_un.d_ptr;
			break;
		case DT_RELASZ:
			relocations_size = entry->d_un.d_val;
			break;
		case DT_JMPREL:
			calls = (const ElfW(Rela) *)entry->d_un.d_ptr;
			break;
		case DT_PLTRELSZ:
			calls_size = entry->d_un.d_val;
			break;
		}
	if (!tables.symbols || !tables.names)
		return;
	if (relocations)
		rebind_table(&tables, relocations, relocations_size);
	if (calls)
		rebind_table(&tables, calls, calls_size);
	seal(map->l_addr);
}

/* The library, and what was loaded along with it; those from before are bound as they were. */
static void rebind_from(const struct link_map *first)
{
	Dl_info info;

	if (!dladdr((void *)rebind_from, &info))
		return;
	for (; first; first = first->l_next)
		rebind(first, info.dli_fbase);
}

HOOK void *dlopen(const char *path, int flags)
{
	struct link_map *map;
	void *handle;

	if (!next_dlopen)
		find_next();
	/* As the last thing that is done here it is a jump, and the caller stays the caller. */
	if (!settings() || !(flags & RTLD_DEEPBIND) || !path || !strchr(path, '/'))
		return next_dlopen(path, flags);
	handle = next_dlopen(path, flags);
	if (handle && !dlinfo(handle, RTLD_DI_LINKMAP, &map))
		rebind_from(map);
	return handle;
}

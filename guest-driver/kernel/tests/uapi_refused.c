// SPDX-License-Identifier: GPL-2.0
/*
 * What becomes of buffers when the host does not do as it is asked. Needs an
 * executor that is made for this, and decides by the length of a mapping
 * (tests/src/bin/refusing-exec.rs).
 *
 * Build: cc -static -Wall -I../uapi -o uapi_refused uapi_refused.c
 * Exit status: 0 if every check held, 1 if one did not, 2 if none could be made.
 */
#include "uapi_common.h"

/* Taken back only when that is asked for a second time. */
#define KEPT_LEN	(13 * PAGE)
/* The executor ends instead of mapping it. */
#define FATAL_PAGES	17
/* It fails to map it. */
#define FAILING_LEN	(19 * PAGE)

/* A buffer that the host refuses to take back is as it was. */
static void test_unmap_refused(int fd, uint64_t addr)
{
	uint64_t offset;

	CHECK(alloc_at(fd, addr, KEPT_LEN, VGPU_BUF_REGISTER, &offset) == 0);
	FAILS(ENOSPC, free_at(fd, addr));
	CHECK(map_at(fd, addr, KEPT_LEN, offset) == (void *)(uintptr_t)addr);
	munmap((void *)(uintptr_t)addr, KEPT_LEN);
	CHECK(free_at(fd, addr) == 0);
	FAILS(ENOENT, free_at(fd, addr));
}

/* What the host could not map it has not: the address is free. */
static void test_map_fails(int fd, uint64_t addr)
{
	FAILS(EIO, alloc_at(fd, addr, FAILING_LEN, 0, NULL));
	CHECK(alloc_at(fd, addr, PAGE, 0, NULL) == 0);
	CHECK(free_at(fd, addr) == 0);
}

/*
 * Whether the host still has pages that it was told of when the session was lost
 * is known when the session is closed. Ends it, and its mapping at @window.
 */
static void test_lost(int fd, uint64_t window, const struct vgpu_info *info)
{
	const long before = pinned();
	char *own = own_pages(FATAL_PAGES);

	FAILS(ENODEV, pin_at(fd, own, FATAL_PAGES * PAGE));
	CHECK(pinned() == before + FATAL_PAGES * (long)PAGE / 1024);
	munmap((void *)(uintptr_t)window, info->window_len);
	close(fd);
	CHECK(pinned() == before);
	munmap(own, FATAL_PAGES * PAGE);
}

int main(void)
{
	struct vgpu_info info = { 0 };
	int fd = xopen();
	uint64_t window;

	CHECK(ioctl(fd, VGPU_IOC_INFO, &info) == 0);
	window = open_session(fd, &info);
	test_unmap_refused(fd, window + AREA_LEN);
	test_map_fails(fd, window + AREA_LEN);
	test_lost(fd, window, &info);
	session_works();
	printf("%s\n", failures ? "FAILED" : "ok");
	return failures ? 1 : 0;
}

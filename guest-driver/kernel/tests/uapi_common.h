/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of /dev/vgpu share: checks, and the first steps of a session.
 */
#ifndef _UAPI_COMMON_H
#define _UAPI_COMMON_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "uapi_layout.h"

#define DEVICE		"/dev/vgpu"
#define PAGE		4096ULL
#define AREA_LEN	(64ULL << 10)
#define WINDOW_ALIGN	(2ULL << 20)
#define WINDOW_STEP	(12ULL << 40)

static _Atomic int failures;

static inline void check(bool held, const char *what, int line)
{
	if (held)
		return;
	failures++;
	printf("line %d: %s: does not hold (errno %d, %s)\n", line, what, errno,
	       strerror(errno));
}

#define CHECK(condition)	check((condition), #condition, __LINE__)
/* The call fails, and with this error. */
#define FAILS(error, call)						\
	do {								\
		errno = 0;						\
		check((call) == -1 && errno == (error),			\
		      #call " fails with " #error, __LINE__);		\
	} while (0)

static inline int xopen(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		perror(DEVICE);
		exit(2);
	}
	return fd;
}

/* Windows that are free in this process, reserved. */
static inline void find_windows(const struct vgpu_info *info, struct vgpu_open *open)
{
	memset(open, 0, sizeof(*open));
	for (uint64_t addr = WINDOW_ALIGN; open->windows_len < VGPU_WINDOWS_MAX;
	     addr += WINDOW_STEP) {
		void *at;

		if (addr > (1ULL << 47) - info->window_len)
			break;
		at = mmap((void *)(uintptr_t)addr, info->window_len, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
			  MAP_FIXED_NOREPLACE, -1, 0);
		if (at != MAP_FAILED)
			open->windows[open->windows_len++] = addr;
	}
	if (!open->windows_len) {
		printf("no window is free\n");
		exit(2);
	}
}

static inline int alloc_at(int fd, uint64_t addr, uint64_t len, uint32_t flags,
		    uint64_t *offset)
{
	struct vgpu_alloc alloc = { .addr = addr, .len = len, .flags = flags };
	int err = ioctl(fd, VGPU_IOC_ALLOC, &alloc);

	if (offset)
		*offset = err ? 0 : alloc.offset;
	return err;
}

static inline int free_at(int fd, uint64_t addr)
{
	struct vgpu_free args = { .addr = addr };

	return ioctl(fd, VGPU_IOC_FREE, &args);
}

static inline int pin_at(int fd, const void *addr, uint64_t len)
{
	struct vgpu_pin args = { .addr = (uintptr_t)addr, .len = len };

	return ioctl(fd, VGPU_IOC_PIN, &args);
}

static inline void *map_at(int fd, uint64_t addr, uint64_t len, uint64_t offset)
{
	return mmap((void *)(uintptr_t)addr, len, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED, fd, offset);
}

static inline bool unmappable(int fd, uint64_t len, uint64_t offset, int flags)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, offset);

	if (at == MAP_FAILED)
		return errno == EINVAL;
	munmap(at, len);
	return false;
}

static inline char *own_pages(int pages)
{
	char *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(at != MAP_FAILED);
	return at;
}

/* Memory that this process has pinned, in KiB. */
static inline long pinned(void)
{
	FILE *status = fopen("/proc/self/status", "r");
	char line[256];
	long kib = -1;

	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "VmPin: %ld", &kib) == 1)
			break;
	if (status)
		fclose(status);
	return kib;
}

/* Opens the session, with its area as the wire demands; its window. */
static inline uint64_t open_session(int fd, const struct vgpu_info *info)
{
	struct vgpu_open args;
	uint64_t offset;
	bool offered = false;

	find_windows(info, &args);
	if (ioctl(fd, VGPU_IOC_OPEN, &args)) {
		perror("VGPU_IOC_OPEN");
		exit(2);
	}
	for (uint32_t i = 0; i < args.windows_len; i++) {
		if (args.windows[i] == args.window)
			offered = true;
		else
			munmap((void *)(uintptr_t)args.windows[i], info->window_len);
	}
	CHECK(offered);
	CHECK(args.session != 0);
	CHECK(alloc_at(fd, args.window, AREA_LEN, VGPU_BUF_REGISTER, &offset) == 0);
	CHECK(map_at(fd, args.window, AREA_LEN, offset) ==
	      (void *)(uintptr_t)args.window);
	return args.window;
}

/* A session with nothing in it but its area; ends it, too. */
static inline void session_works(void)
{
	struct vgpu_info info = { 0 };
	uint64_t window, offset;
	int fd = xopen();

	CHECK(ioctl(fd, VGPU_IOC_INFO, &info) == 0);
	window = open_session(fd, &info);
	CHECK(alloc_at(fd, window + AREA_LEN, PAGE, 0, &offset) == 0);
	CHECK(free_at(fd, window + AREA_LEN) == 0);
	munmap((void *)(uintptr_t)window, info.window_len);
	close(fd);
}

#endif /* _UAPI_COMMON_H */

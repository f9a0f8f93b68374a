// SPDX-License-Identifier: GPL-2.0
/*
 * What /dev/vgpu refuses, and how: every error path of its ioctls that a
 * program can reach, and what must still work after each. Needs a device that
 * opens sessions; makes no CUDA call.
 *
 * Build: cc -static -Wall -I../uapi -o uapi_test uapi_test.c
 * Exit status: 0 if every check held, 1 if one did not, 2 if none could be made.
 */
#include "uapi_common.h"

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void test_node(void)
{
	struct stat node;

	CHECK(stat(DEVICE, &node) == 0 && S_ISCHR(node.st_mode) &&
	      (node.st_mode & 0777) == 0666);
}

static void test_info(int fd, struct vgpu_info *info)
{
	CHECK(ioctl(fd, VGPU_IOC_INFO, info) == 0);
	CHECK(info->abi_version == VGPU_ABI_VERSION);
	CHECK(info->sessions_max && info->rings_max && info->runs_max);
	CHECK(info->page_len == PAGE);
	CHECK(info->arena_len && info->arena_len <= info->window_len);
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_INFO, (void *)8));
}

static void test_unknown(int fd)
{
	char arg[256] = { 0 };

	FAILS(ENOTTY, ioctl(fd, _IO('V', 0x40), arg));
	FAILS(ENOTTY, ioctl(fd, _IO('V', 0x4b), arg));
	FAILS(ENOTTY, ioctl(fd, _IOR('V', 0x40, uint64_t), arg));
	FAILS(ENOTTY, ioctl(fd, _IOWR('W', 0x41, struct vgpu_open), arg));
	FAILS(EINVAL, read(fd, arg, sizeof(arg)));
	FAILS(EINVAL, write(fd, arg, sizeof(arg)));
	FAILS(ESPIPE, lseek(fd, 0, SEEK_SET));
}

/* Without a session nothing works, and nothing waits. */
static void test_no_session(int fd)
{
	const uint64_t window = 1ULL << 40;
	struct pollfd pollfd = { .fd = fd, .events = POLLIN | POLLOUT };
	struct vgpu_wait wait = { .deadline_ns = now_ns() };
	struct vgpu_ring ring = { .addr = window };
	uint32_t doorbell = 0;

	FAILS(ENOTCONN, alloc_at(fd, window, AREA_LEN, 0, NULL));
	FAILS(ENOTCONN, free_at(fd, window));
	FAILS(ENOTCONN, pin_at(fd, (void *)PAGE, PAGE));
	FAILS(ENOTCONN, ioctl(fd, VGPU_IOC_RING_CREATE, &ring));
	FAILS(ENOTCONN, ioctl(fd, VGPU_IOC_RING_DESTROY, &ring));
	FAILS(ENOTCONN, ioctl(fd, VGPU_IOC_DOORBELL, &doorbell));
	FAILS(ENOTCONN, ioctl(fd, VGPU_IOC_WAIT, &wait));
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, window) == MAP_FAILED &&
	      errno == ENOTCONN);
	CHECK(poll(&pollfd, 1, 0) == 0);
}

/* What is told of the GPUs, whether there is a session or not. */
static void test_gpus(int fd)
{
	static uint32_t told[VGPU_GPUS_LEN_MAX / sizeof(uint32_t)];
	struct vgpu_gpus args = { .addr = (uintptr_t)told, .len = sizeof(told) };
	struct vgpu_gpus bad = args;

	CHECK(ioctl(fd, VGPU_IOC_GPUS, &args) == 0);
	/* A head of 48 bytes, 304 for each GPU, 16 for each process. */
	CHECK(told[0] >= 1 && args.len == 48 + 304 * told[0] + 16 * told[1]);
	bad.reserved = 1;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_GPUS, &bad));
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_GPUS, NULL));
	bad = args;
	bad.addr = 8;
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_GPUS, &bad));
	bad = args;
	bad.len = 47;
	FAILS(EMSGSIZE, ioctl(fd, VGPU_IOC_GPUS, &bad));
	CHECK(bad.len >= 48 + 304);
	FAILS(ENOTTY, ioctl(fd, _IOR('V', 0x48, struct vgpu_gpus), &args));
}

#define OPEN_FAILS(args, field, value)					\
	do {								\
		struct vgpu_open bad = (args);				\
									\
		bad.field = (value);					\
		FAILS(EINVAL, ioctl(fd, VGPU_IOC_OPEN, &bad));		\
	} while (0)

static void test_open_args(int fd)
{
	const struct vgpu_open good = {
		.windows_len = 2,
		.windows = { 1ULL << 40, 1ULL << 41 },
	};

	OPEN_FAILS(good, windows_len, 0);
	OPEN_FAILS(good, windows_len, VGPU_WINDOWS_MAX + 1);
	OPEN_FAILS(good, wait_s, 1);
	OPEN_FAILS(good, status, 1);
	OPEN_FAILS(good, windows[0], 0);
	OPEN_FAILS(good, windows[0], good.windows[0] + PAGE);
	OPEN_FAILS(good, windows[0], (1ULL << 47) - WINDOW_ALIGN);
	OPEN_FAILS(good, windows[1], -WINDOW_ALIGN);
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_OPEN, NULL));
}

#define UUID_OFFSET	(48 + 96)	/* of the first GPU's name in what is told */

/* Names that the host refuses, and a list that the driver does; no session is open. */
static void test_open_gpus_args(int fd, const struct vgpu_info *info)
{
	static char told[VGPU_GPUS_LEN_MAX];
	static char names[VGPU_GPUS_MAX + 1][VGPU_GPU_NAME_LEN];
	struct vgpu_gpus gpus = { .addr = (uintptr_t)told, .len = sizeof(told) };
	struct vgpu_open_gpus good = { .gpus = (uintptr_t)names, .gpus_len = 1 }, args;

	CHECK(ioctl(fd, VGPU_IOC_GPUS, &gpus) == 0);
	memcpy(names[0], told + UUID_OFFSET, VGPU_GPU_NAME_LEN);
	CHECK(!strncmp(names[0], "GPU-", 4) || !strncmp(names[0], "MIG-", 4));
	find_windows(info, &good.open);

	args = good;
	args.reserved = 1;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_OPEN_GPUS, &args));
	args = good;
	args.gpus_len = 0;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_OPEN_GPUS, &args));
	args.gpus_len = VGPU_GPUS_MAX + 1;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_OPEN_GPUS, &args));
	args.gpus_len = UINT32_MAX;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_OPEN_GPUS, &args));
	args = good;
	args.gpus = 8;
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_OPEN_GPUS, &args));
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_OPEN_GPUS, NULL));
	args = good;
	args.open.status = 1;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_OPEN_GPUS, &args));
	args = good;
	args.open.windows_len = 0;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_OPEN_GPUS, &args));
	FAILS(ENOTTY, ioctl(fd, _IOR('V', 0x4a, struct vgpu_open_gpus), &args));

	/* The host: the same twice, one that is no name, one of somebody else. */
	memcpy(names[1], names[0], VGPU_GPU_NAME_LEN);
	args = good;
	args.gpus_len = 2;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_OPEN_GPUS, &args));
	CHECK(args.open.status == 1);
	memset(names[1], 0xff, VGPU_GPU_NAME_LEN);
	args = good;
	args.gpus_len = 2;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_OPEN_GPUS, &args));
	memset(names[1], 0, VGPU_GPU_NAME_LEN);
	strcpy(names[1], "GPU-00000000-0000-0000-0000-000000000000");
	args = good;
	args.gpus_len = 2;
	FAILS(ENOENT, ioctl(fd, VGPU_IOC_OPEN_GPUS, &args));
	CHECK(args.open.status == 2 && !args.open.session);

	for (uint32_t i = 0; i < good.open.windows_len; i++)
		munmap((void *)(uintptr_t)good.open.windows[i], info->window_len);
}

/* A session with a GPU that was told, which is one like any other. */
static void test_open_gpus(const struct vgpu_info *info)
{
	static char told[VGPU_GPUS_LEN_MAX];
	struct vgpu_gpus gpus = { .addr = (uintptr_t)told, .len = sizeof(told) };
	struct vgpu_open_gpus args = { .gpus = (uintptr_t)told + UUID_OFFSET,
				       .gpus_len = 1 };
	uint64_t window, offset;
	int fd = xopen();

	CHECK(ioctl(fd, VGPU_IOC_GPUS, &gpus) == 0);
	find_windows(info, &args.open);
	CHECK(ioctl(fd, VGPU_IOC_OPEN_GPUS, &args) == 0);
	window = args.open.window;
	CHECK(args.open.session && !args.open.status && window);
	CHECK(alloc_at(fd, window, AREA_LEN, VGPU_BUF_REGISTER, &offset) == 0);
	FAILS(EBUSY, ioctl(fd, VGPU_IOC_OPEN_GPUS, &args));
	for (uint32_t i = 0; i < args.open.windows_len; i++)
		munmap((void *)(uintptr_t)args.open.windows[i], info->window_len);
	close(fd);
}

static void test_double_open(int fd, uint64_t window)
{
	struct vgpu_open args = { .windows_len = 1, .windows = { window } };

	FAILS(EBUSY, ioctl(fd, VGPU_IOC_OPEN, &args));
}

static void test_alloc_args(int fd, const struct vgpu_info *info, uint64_t window)
{
	struct vgpu_alloc args = { .addr = window + AREA_LEN, .len = PAGE,
				   .reserved = 1 };
	uint64_t end = window + info->arena_len;

	FAILS(EINVAL, ioctl(fd, VGPU_IOC_ALLOC, &args));
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_ALLOC, NULL));
	FAILS(EINVAL, alloc_at(fd, window + AREA_LEN, 0, 0, NULL));
	FAILS(EINVAL, alloc_at(fd, window + AREA_LEN, PAGE + 1, 0, NULL));
	FAILS(EINVAL, alloc_at(fd, window + AREA_LEN, PAGE / 2, 0, NULL));
	FAILS(EINVAL, alloc_at(fd, window + AREA_LEN + 8, PAGE, 0, NULL));
	FAILS(EINVAL, alloc_at(fd, window + AREA_LEN, PAGE, 2, NULL));
	FAILS(EINVAL, alloc_at(fd, window - PAGE, PAGE, 0, NULL));
	FAILS(EINVAL, alloc_at(fd, end, PAGE, 0, NULL));
	FAILS(EINVAL, alloc_at(fd, end - PAGE, 2 * PAGE, 0, NULL));
	FAILS(EINVAL, alloc_at(fd, window + AREA_LEN, -PAGE, 0, NULL));
	FAILS(EINVAL, alloc_at(fd, -PAGE, 2 * PAGE, 0, NULL));
	if (info->mapped_len_max < info->arena_len)
		FAILS(ENOSPC, alloc_at(fd, window + AREA_LEN,
				       info->mapped_len_max, 0, NULL));
	FAILS(EEXIST, alloc_at(fd, window, PAGE, 0, NULL));
	FAILS(EEXIST, alloc_at(fd, window + AREA_LEN - PAGE, 2 * PAGE, 0, NULL));
	FAILS(ENOENT, free_at(fd, window + AREA_LEN));
	FAILS(ENOENT, free_at(fd, window + PAGE));
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_FREE, NULL));
	/* The host cannot do without the session area; it is still there then. */
	FAILS(EINVAL, free_at(fd, window));
	CHECK(map_at(fd, window, PAGE, window) == (void *)(uintptr_t)window);
}

/* Memory that this VM does not have. */
static void test_too_much(int fd, const struct vgpu_info *info, uint64_t window)
{
	uint64_t have = sysconf(_SC_PHYS_PAGES) * PAGE;

	if (have + AREA_LEN < info->mapped_len_max)
		FAILS(ENOMEM, alloc_at(fd, window + AREA_LEN, have, 0, NULL));
}

static void test_mmap(int fd, uint64_t window)
{
	uint64_t addr = window + (1ULL << 30), len = 16 * PAGE, offset;
	unsigned char *at, *again;
	void *alias;

	CHECK(alloc_at(fd, addr, len, VGPU_BUF_REGISTER, &offset) == 0);
	CHECK(unmappable(fd, PAGE, 0, MAP_SHARED));
	CHECK(unmappable(fd, PAGE, offset + len, MAP_SHARED));
	CHECK(unmappable(fd, PAGE, offset - PAGE, MAP_SHARED));
	CHECK(unmappable(fd, len + PAGE, offset, MAP_SHARED));
	CHECK(unmappable(fd, len, offset + PAGE, MAP_SHARED));
	CHECK(unmappable(fd, len, offset, MAP_PRIVATE));

	at = map_at(fd, addr, len, offset);
	CHECK(at == (void *)(uintptr_t)addr);
	if (at == MAP_FAILED)
		return;
	/* Part of it, elsewhere: the same memory. */
	again = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, offset + 3 * PAGE);
	CHECK(again != MAP_FAILED);
	at[3 * PAGE + 5] = 0x5a;
	CHECK(again[5] == 0x5a);
	alias = mremap(again, PAGE, 2 * PAGE, MREMAP_MAYMOVE);
	CHECK(alias == MAP_FAILED);

	/* The memory outlives the buffer while it is mapped. */
	CHECK(free_at(fd, addr) == 0);
	FAILS(ENOENT, free_at(fd, addr));
	CHECK(again[5] == 0x5a);
	CHECK(unmappable(fd, PAGE, offset, MAP_SHARED));
	/* The address is free again, for other memory. */
	CHECK(alloc_at(fd, addr, len, 0, &offset) == 0);
	at = map_at(fd, addr, len, offset);
	CHECK(at == (void *)(uintptr_t)addr);
	at[3 * PAGE + 5] = 0xa5;
	CHECK(again[5] == 0x5a);
	munmap(again, PAGE);
	munmap(at, len);
	CHECK(free_at(fd, addr) == 0);
}

/* Whether the kernel can read a byte there, where a look of our own could be fatal. */
static bool readable(const void *at)
{
	int pipes[2];
	bool can;

	CHECK(pipe(pipes) == 0);
	can = write(pipes[1], at, 1) == 1;
	close(pipes[0]);
	close(pipes[1]);
	return can;
}

/* What else a program can do to a mapping, and at which odd places it may ask for one. */
static void test_mapping_tricks(int fd, uint64_t window)
{
	uint64_t addr = window + (3ULL << 30), len = 8 * PAGE, offset;
	unsigned char *at, *moved;
	int status;
	pid_t child;

	CHECK(alloc_at(fd, addr, len, 0, &offset) == 0);
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, -PAGE) == MAP_FAILED);
	CHECK(mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, -2 * PAGE) == MAP_FAILED);
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, offset + 1) == MAP_FAILED);
	CHECK(mmap(NULL, 1ULL << 46, PROT_READ, MAP_SHARED, fd, offset) == MAP_FAILED);
	/* Part of a page is all of it. */
	at = mmap(NULL, 5, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset + 7 * PAGE);
	CHECK(at != MAP_FAILED && readable(at + PAGE - 1));
	munmap(at, PAGE);

	at = map_at(fd, addr, len, offset);
	CHECK(at == (void *)(uintptr_t)addr);
	if (at == MAP_FAILED)
		return;
	at[0] = 1;
	at[PAGE] = 2;
	CHECK(mlock(at, len) == 0 && munlock(at, len) == 0);
	CHECK(madvise(at, len, MADV_REMOVE) == -1);
	CHECK(madvise(at, len, MADV_FREE) == -1);
	CHECK(madvise(at, len, MADV_DODUMP) == -1);
	/* Neither doubled nor longer; elsewhere it is the same memory. */
	CHECK(mremap(at, 0, len, MREMAP_MAYMOVE) == MAP_FAILED);
	CHECK(mremap(at, len, 2 * len, MREMAP_MAYMOVE) == MAP_FAILED);
	moved = mremap(at, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at + len);
	CHECK(moved == at + len && moved[PAGE] == 2);
	CHECK(mprotect(moved, PAGE, PROT_NONE) == 0 && !readable(moved));
	CHECK(mprotect(moved, PAGE, PROT_READ) == 0 && moved[0] == 1);

	/* Who insists shares it with a child; it is ordinary memory there, too. */
	CHECK(madvise(moved, len, MADV_DOFORK) == 0);
	child = fork();
	if (!child) {
		moved[PAGE]++;
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(moved[PAGE] == 3);

	/* What was given away is not filled in again; another mapping still has it. */
	CHECK(madvise(moved + PAGE, PAGE, MADV_DONTNEED) == 0);
	CHECK(!readable(moved + PAGE));
	at = map_at(fd, addr, len, offset);
	CHECK(at[PAGE] == 3);
	munmap(moved, len);
	munmap(at, len);
	CHECK(free_at(fd, addr) == 0);
}

/* A duplicate is the same file; the session stays as long as one of them. */
static void test_dup(int fd, uint64_t window)
{
	uint64_t addr = window + (4ULL << 30), offset;
	int other = dup(fd);

	CHECK(other >= 0 && other != fd);
	CHECK(alloc_at(other, addr, PAGE, 0, &offset) == 0);
	FAILS(EEXIST, alloc_at(fd, addr, PAGE, 0, NULL));
	close(other);
	FAILS(EBADF, free_at(other, addr));
	CHECK(map_at(fd, addr, PAGE, offset) == (void *)(uintptr_t)addr);
	munmap((void *)(uintptr_t)addr, PAGE);
	CHECK(free_at(fd, addr) == 0);
}

/* Buffers are ordinary memory: the kernel reads and writes them for a file. */
static void test_direct_io(int fd, uint64_t window)
{
	uint64_t addr = window + (2ULL << 30), len = 4 * PAGE, offset;
	int pipes[2];
	char *at;

	CHECK(alloc_at(fd, addr, len, 0, &offset) == 0);
	at = map_at(fd, addr, len, offset);
	CHECK(pipe(pipes) == 0);
	memset(at, 7, PAGE);
	/* vmsplice() takes references to the pages, as O_DIRECT does. */
	CHECK(vmsplice(pipes[1], &(struct iovec){ at, PAGE }, 1, 0) == (ssize_t)PAGE);
	CHECK(read(pipes[0], at + PAGE, PAGE) == (ssize_t)PAGE);
	CHECK(!memcmp(at, at + PAGE, PAGE));
	close(pipes[0]);
	close(pipes[1]);
	munmap(at, len);
	CHECK(free_at(fd, addr) == 0);
}

/* What is not to be pinned: nothing of it is. */
static void test_pin_args(int fd, const struct vgpu_info *info, uint64_t window)
{
	struct vgpu_pin args = { .len = PAGE };
	uint64_t addr = window + (5ULL << 30), offset;
	const long before = pinned();
	char *own = own_pages(4), *alias;

	args.addr = (uintptr_t)own;
	args.flags = 1;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_PIN, &args));
	args.flags = 0;
	args.reserved = 1;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_PIN, &args));
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_PIN, NULL));
	FAILS(EINVAL, pin_at(fd, own, 0));
	FAILS(EINVAL, pin_at(fd, own, PAGE + 1));
	FAILS(EINVAL, pin_at(fd, own + 8, PAGE));
	FAILS(EINVAL, pin_at(fd, own, -PAGE));
	FAILS(EINVAL, pin_at(fd, (void *)-PAGE, PAGE));
	FAILS(EINVAL, pin_at(fd, (void *)-PAGE, 2 * PAGE));
	FAILS(EINVAL, pin_at(fd, (void *)(1UL << 47), PAGE));
	FAILS(EINVAL, pin_at(fd, (void *)0xffff888000000000, PAGE));
	FAILS(EINVAL, pin_at(fd, (void *)window, PAGE));
	FAILS(EINVAL, pin_at(fd, (void *)(window - PAGE), 2 * PAGE));
	FAILS(EINVAL, pin_at(fd, (void *)(window + info->window_len - PAGE), 2 * PAGE));
	FAILS(EFAULT, pin_at(fd, NULL, PAGE));
	FAILS(EFAULT, pin_at(fd, (void *)test_pin_args - (uintptr_t)test_pin_args % PAGE, PAGE));
	/* With the last page of it wrong. */
	CHECK(mprotect(own + 3 * PAGE, PAGE, PROT_READ) == 0);
	FAILS(EFAULT, pin_at(fd, own, 4 * PAGE));
	CHECK(mprotect(own + 3 * PAGE, PAGE, PROT_NONE) == 0);
	FAILS(EFAULT, pin_at(fd, own, 4 * PAGE));
	munmap(own + 3 * PAGE, PAGE);
	FAILS(EFAULT, pin_at(fd, own, 4 * PAGE));
	/* The driver's own pages. */
	CHECK(alloc_at(fd, addr, PAGE, 0, &offset) == 0);
	alias = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
	CHECK(alias != MAP_FAILED);
	FAILS(EOPNOTSUPP, pin_at(fd, alias, PAGE));
	munmap(alias, PAGE);
	CHECK(free_at(fd, addr) == 0);
	CHECK(pinned() == before);
	munmap(own, 3 * PAGE);
}

/* Memory of the process' own, which the host gets as it lies. */
static void test_pin(int fd)
{
	const long before = pinned();
	char *own = own_pages(8), *again;
	int shared = memfd_create("shared", 0);

	own[5 * PAGE] = 7;
	CHECK(pin_at(fd, own + PAGE, 5 * PAGE) == 0);
	CHECK(pinned() == before + 5 * (long)PAGE / 1024);
	CHECK(own[5 * PAGE] == 7);
	FAILS(EEXIST, pin_at(fd, own + PAGE, 5 * PAGE));
	FAILS(EEXIST, pin_at(fd, own, 2 * PAGE));
	FAILS(EEXIST, pin_at(fd, own + 5 * PAGE, PAGE));
	CHECK(pin_at(fd, own + 6 * PAGE, PAGE) == 0);
	FAILS(ENOENT, free_at(fd, (uintptr_t)own + 2 * PAGE));
	CHECK(unmappable(fd, PAGE, (uintptr_t)own + PAGE, MAP_SHARED));
	CHECK(free_at(fd, (uintptr_t)own + 6 * PAGE) == 0);
	/* Its pages stay, whatever becomes of its addresses. */
	munmap(own, 8 * PAGE);
	CHECK(pinned() == before + 5 * (long)PAGE / 1024);
	again = mmap(own, 8 * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK(again == own);
	FAILS(EEXIST, pin_at(fd, own + PAGE, PAGE));
	CHECK(free_at(fd, (uintptr_t)own + PAGE) == 0);
	FAILS(ENOENT, free_at(fd, (uintptr_t)own + PAGE));
	CHECK(pinned() == before);
	CHECK(pin_at(fd, own + PAGE, PAGE) == 0);
	/* In a file that is memory. */
	CHECK(shared >= 0 && ftruncate(shared, PAGE) == 0);
	again = mmap(own, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, shared, 0);
	CHECK(again == own && pin_at(fd, own, PAGE) == 0);
	close(shared);
	CHECK(free_at(fd, (uintptr_t)own) == 0);
	/* The other page goes with the session. */
	munmap(own, 8 * PAGE);
}

/* A child does not have the mapping. */
static void test_fork(uint64_t window)
{
	int status, pipes[2];
	pid_t child;

	CHECK(pipe(pipes) == 0);
	child = fork();
	if (!child) {
		/* Has the kernel look, where a look of our own would be fatal. */
		bool mapped = write(pipes[1], (void *)(uintptr_t)window, 1) == 1;

		_exit(mapped || errno != EFAULT);
	}
	CHECK(child > 0);
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(write(pipes[1], (void *)(uintptr_t)window, 1) == 1);
	close(pipes[0]);
	close(pipes[1]);
}

static void test_rings(int fd, const struct vgpu_info *info, uint64_t window)
{
	struct vgpu_ring ring = { .ring = info->rings_max, .addr = window };
	uint32_t doorbell = info->rings_max;

	FAILS(EINVAL, ioctl(fd, VGPU_IOC_RING_CREATE, &ring));
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_RING_DESTROY, &ring));
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_DOORBELL, &doorbell));
	ring.ring = 0;
	ring.reserved = 1;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_RING_CREATE, &ring));
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_RING_DESTROY, &ring));
	ring.reserved = 0;
	ring.addr = window + 8;
	FAILS(EINVAL, ioctl(fd, VGPU_IOC_RING_CREATE, &ring));
	ring.addr = window + info->arena_len - PAGE;
	FAILS(ENOENT, ioctl(fd, VGPU_IOC_RING_CREATE, &ring));
	FAILS(ENOENT, ioctl(fd, VGPU_IOC_RING_DESTROY, &ring));
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_RING_CREATE, NULL));
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_DOORBELL, NULL));
}

static void on_signal(int signal)
{
	(void)signal;
}

struct waiter {
	int fd;
	pthread_t thread;
	int err;
};

static void *wait_forever(void *arg)
{
	struct waiter *waiter = arg;
	struct vgpu_wait wait = { 0 };

	/* Events may come at any time; only the signal ends this. */
	do {
		errno = 0;
		waiter->err = ioctl(waiter->fd, VGPU_IOC_WAIT, &wait) ? errno : 0;
	} while (!waiter->err);
	return NULL;
}

static void test_wait(int fd)
{
	struct vgpu_wait wait = { .deadline_ns = 1 };
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	struct waiter waiter = { .fd = fd };
	struct timespec step = { .tv_nsec = 1000000 };
	int err;

	/* Any other count than the one now returns at once. */
	wait.seen = UINT64_MAX;
	CHECK(ioctl(fd, VGPU_IOC_WAIT, &wait) == 0 && wait.seen != UINT64_MAX);
	/* A deadline in the past. */
	do {
		wait.deadline_ns = 1;
		err = ioctl(fd, VGPU_IOC_WAIT, &wait);
	} while (!err);
	CHECK(errno == ETIME);
	CHECK(poll(&pollfd, 1, 0) == 0);
	FAILS(EFAULT, ioctl(fd, VGPU_IOC_WAIT, NULL));

	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	CHECK(pthread_create(&waiter.thread, NULL, wait_forever, &waiter) == 0);
	/* Until one of them finds it asleep. */
	while (pthread_tryjoin_np(waiter.thread, NULL)) {
		pthread_kill(waiter.thread, SIGUSR1);
		nanosleep(&step, NULL);
	}
	CHECK(waiter.err == EINTR);
}

/* poll() on a device that has nothing to say sleeps for as long as it was told to. */
static void test_idle_poll(int fd)
{
	const uint64_t end = now_ns() + 500000000;
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	unsigned int returns = 0;

	for (uint64_t now = now_ns(); now < end; now = now_ns()) {
		struct vgpu_wait wait = { .deadline_ns = 1 };

		if (poll(&pollfd, 1, (end - now) / 1000000 + 1) > 0)
			ioctl(fd, VGPU_IOC_WAIT, &wait);
		returns++;
	}
	/* Once, but for an event or two that were on their way. */
	if (returns > 5)
		printf("poll() of an idle device returned %u times\n", returns);
	CHECK(returns <= 5);
}

#define RING_LEN	((4 + 64 + 256) * 1024ULL)

/* The host ends a session whose ring makes no sense: who sleeps is woken, and told. */
static void test_lost_session(const struct vgpu_info *info)
{
	int fd = xopen();
	uint64_t window = open_session(fd, info), at = window + AREA_LEN, offset;
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	struct vgpu_open again = { .windows_len = 1, .windows = { window } };
	struct vgpu_ring ring = { .addr = at };
	struct vgpu_wait wait = { .deadline_ns = 1 };
	_Atomic int *status = (void *)(uintptr_t)window;
	_Atomic uint32_t *waiters = (void *)(uintptr_t)(window + 128);
	_Atomic uint64_t *head = (void *)(uintptr_t)at;
	uint32_t doorbell = 0;

	CHECK(alloc_at(fd, at, RING_LEN, 0, &offset) == 0);
	CHECK(map_at(fd, at, RING_LEN, offset) == (void *)(uintptr_t)at);
	CHECK(ioctl(fd, VGPU_IOC_RING_CREATE, &ring) == 0);
	/* One with a ring in it stays. */
	FAILS(EINVAL, free_at(fd, at));
	CHECK(poll(&pollfd, 1, 0) == 0 || ioctl(fd, VGPU_IOC_WAIT, &wait) == 0);

	*waiters = 1;
	*head = 1ULL << 40;
	CHECK(ioctl(fd, VGPU_IOC_DOORBELL, &doorbell) == 0);
	while (!*status)
		CHECK(poll(&pollfd, 1, 60000) == 1);
	/* The word is the executor's; its end is known a little later. */
	while (!alloc_at(fd, window + (1ULL << 30), PAGE, 0, NULL) &&
	       !free_at(fd, window + (1ULL << 30)))
		;
	CHECK(errno == ENODEV);
	CHECK(poll(&pollfd, 1, -1) == 1 && pollfd.revents == (POLLHUP | POLLERR));
	FAILS(ENODEV, ioctl(fd, VGPU_IOC_WAIT, &wait));
	FAILS(ENODEV, ioctl(fd, VGPU_IOC_DOORBELL, &doorbell));
	FAILS(ENODEV, free_at(fd, at));
	FAILS(EBUSY, ioctl(fd, VGPU_IOC_OPEN, &again));
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, window) == MAP_FAILED &&
	      errno == ENODEV);
	munmap((void *)(uintptr_t)window, info->window_len);
	close(fd);
}

/* Two files of one process are two sessions; the end of one leaves the other. */
static void test_two_files(const struct vgpu_info *info)
{
	int fd = xopen();
	uint64_t window = open_session(fd, info);

	*(volatile char *)(uintptr_t)window = 1;
	close(fd);
	/* The mapping holds the file, so only this ends the session. */
	munmap((void *)(uintptr_t)window, AREA_LEN);
}

int main(void)
{
	struct vgpu_info info = { 0 };
	uint64_t window;
	int fd;

	fd = xopen();
	test_node();
	test_info(fd, &info);
	if (failures)
		return 1;
	test_unknown(fd);
	test_no_session(fd);
	test_gpus(fd);
	test_open_args(fd);
	test_open_gpus_args(fd, &info);
	test_no_session(fd);
	window = open_session(fd, &info);
	test_double_open(fd, window);
	test_gpus(fd);
	test_alloc_args(fd, &info, window);
	test_too_much(fd, &info, window);
	test_mmap(fd, window);
	test_mapping_tricks(fd, window);
	test_dup(fd, window);
	test_direct_io(fd, window);
	test_pin_args(fd, &info, window);
	test_pin(fd);
	test_fork(window);
	test_rings(fd, &info, window);
	test_wait(fd);
	test_idle_poll(fd);
	test_lost_session(&info);
	test_two_files(&info);
	test_open_gpus(&info);
	test_double_open(fd, window);
	munmap((void *)(uintptr_t)window, AREA_LEN);
	close(fd);
	printf("%s\n", failures ? "FAILED" : "ok");
	return failures ? 1 : 0;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * What only several threads or processes can do to /dev/vgpu: use a file that
 * another closes, want the same address, inherit a session, be killed inside of
 * any request. Whatever the order, each request ends in one of the ways it may,
 * and what comes after it works.
 *
 * Build: cc -static -Wall -pthread -I../uapi -o uapi_race uapi_race.c
 * Exit status: 0 if every check held, 1 if one did not, 2 if none could be made.
 */
#include "uapi_common.h"

#define THREADS		4
#define ROUNDS		8
#define BIG		(16ULL << 20)

struct shared {
	int fd;
	uint64_t window;
	pthread_barrier_t barrier;
	_Atomic bool stop;
	_Atomic unsigned int wins;
};

static void forget(uint64_t addr, uint64_t len)
{
	munmap((void *)(uintptr_t)addr, len);
}

/* All want one address at once: one gets it; all give it back: one does. */
static void *want_one_address(void *arg)
{
	struct shared *shared = arg;
	uint64_t addr = shared->window + (1ULL << 30);

	for (int round = 0; round < ROUNDS; round++) {
		pthread_barrier_wait(&shared->barrier);
		if (!alloc_at(shared->fd, addr, 4 * PAGE, 0, NULL))
			shared->wins++;
		else
			CHECK(errno == EEXIST);
		if (pthread_barrier_wait(&shared->barrier))
			CHECK(shared->wins == 1);
		pthread_barrier_wait(&shared->barrier);
		if (!free_at(shared->fd, addr))
			shared->wins--;
		else
			CHECK(errno == ENOENT);
		if (pthread_barrier_wait(&shared->barrier))
			CHECK(shared->wins == 0);
	}
	return NULL;
}

/* Maps a buffer that comes and goes: what is mapped is zero, and stays ours. */
static void *map_again(void *arg)
{
	struct shared *shared = arg;
	uint64_t addr = shared->window + (2ULL << 30);

	while (!shared->stop) {
		unsigned char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					 MAP_SHARED, shared->fd, addr);

		if (at == MAP_FAILED) {
			CHECK(errno == EINVAL);
			continue;
		}
		shared->wins++;
		CHECK(at[0] == 0 || at[0] == 7);
		at[0] = 7;
		CHECK(at[0] == 7);
		munmap(at, PAGE);
	}
	return NULL;
}

static void test_threads(const struct vgpu_info *info)
{
	struct shared shared = { .fd = xopen() };
	pthread_t threads[THREADS];
	uint64_t addr;

	shared.window = open_session(shared.fd, info);
	pthread_barrier_init(&shared.barrier, NULL, THREADS);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, want_one_address, &shared);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);

	pthread_create(&threads[0], NULL, map_again, &shared);
	addr = shared.window + (2ULL << 30);
	for (int round = 0; round < 10 * ROUNDS || !shared.wins; round++) {
		CHECK(alloc_at(shared.fd, addr, PAGE, 0, NULL) == 0);
		CHECK(free_at(shared.fd, addr) == 0);
	}
	shared.stop = true;
	pthread_join(threads[0], NULL);
	forget(shared.window, info->window_len);
	close(shared.fd);
}

/* Makes every request there is until the file is gone. */
static void *use_until_closed(void *arg)
{
	struct shared *shared = arg;
	uint64_t addr = shared->window + (3ULL << 30);

	for (errno = 0; errno != EBADF;) {
		struct vgpu_wait wait = { .deadline_ns = 1 };
		struct pollfd pollfd = { .fd = shared->fd, .events = POLLIN };
		uint32_t doorbell = 0;

		alloc_at(shared->fd, addr, PAGE, 0, NULL);
		forget((uintptr_t)mmap(NULL, PAGE, PROT_READ, MAP_SHARED,
				       shared->fd, addr), PAGE);
		poll(&pollfd, 1, 0);
		ioctl(shared->fd, VGPU_IOC_WAIT, &wait);
		free_at(shared->fd, addr);
		shared->wins++;
		ioctl(shared->fd, VGPU_IOC_DOORBELL, &doorbell);
	}
	return NULL;
}

/* The file is closed, and its memory unmapped, under the threads that use it. */
static void test_close(const struct vgpu_info *info)
{
	struct shared shared = { .fd = xopen() };
	pthread_t threads[THREADS];

	shared.window = open_session(shared.fd, info);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, use_until_closed, &shared);
	while (shared.wins < 2 * THREADS)
		usleep(1000);
	close(shared.fd);
	forget(shared.window, info->window_len);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

/* A child that has the file uses the same session, and may end before it. */
static void test_inherited_file(const struct vgpu_info *info)
{
	int fd = xopen(), status;
	uint64_t window = open_session(fd, info), addr = window + AREA_LEN, offset;
	pid_t child = fork();

	if (!child) {
		unsigned char *at;

		failures = 0;
		CHECK(alloc_at(fd, addr, PAGE, 0, &offset) == 0);
		at = map_at(fd, addr, PAGE, offset);
		CHECK(at == (void *)(uintptr_t)addr);
		at[0] = 42;
		_exit(failures != 0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(*(unsigned char *)map_at(fd, addr, PAGE, addr) == 42);
	CHECK(free_at(fd, addr) == 0);

	/* One that is killed in the middle of a request leaves the session as well. */
	child = fork();
	if (!child)
		for (;;)
			if (!alloc_at(fd, addr, BIG, 0, NULL))
				free_at(fd, addr);
	usleep(20000);
	kill(child, SIGKILL);
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(alloc_at(fd, window + (1ULL << 30), PAGE, 0, NULL) == 0);
	forget(window, info->window_len);
	close(fd);
}

/* A request that a child repeats until it is killed. */
static void repeat(int kind, const struct vgpu_info *info, int ready)
{
	uint64_t window = 0, addr, offset;
	int fd = xopen();

	if (kind)
		window = open_session(fd, info);
	addr = window + (1ULL << 30);
	CHECK(write(ready, "", 1) == 1);
	for (;;) {
		struct vgpu_ring ring = { .addr = addr };
		struct vgpu_wait wait = { 0 };
		uint32_t doorbell = 0;

		switch (kind) {
		case 0:
			/* Opens and closes. */
			session_works();
			break;
		case 1:
			alloc_at(fd, addr, BIG, VGPU_BUF_REGISTER, NULL);
			free_at(fd, addr);
			break;
		case 2:
			if (!alloc_at(fd, addr, BIG, 0, &offset))
				map_at(fd, addr, BIG, offset);
			free_at(fd, addr);
			break;
		case 3:
			alloc_at(fd, addr, 128 * PAGE, 0, NULL);
			ioctl(fd, VGPU_IOC_RING_CREATE, &ring);
			ioctl(fd, VGPU_IOC_RING_DESTROY, &ring);
			break;
		case 4:
			ioctl(fd, VGPU_IOC_DOORBELL, &doorbell);
			break;
		default:
			/* Without end, unless there are events. */
			while (!ioctl(fd, VGPU_IOC_WAIT, &wait))
				;
			break;
		}
	}
}

#define KINDS	6

static void test_killed(const struct vgpu_info *info)
{
	pid_t children[KINDS];

	for (int kind = 0; kind < KINDS; kind++) {
		int pipes[2];
		char byte;

		CHECK(pipe(pipes) == 0);
		children[kind] = fork();
		if (!children[kind])
			repeat(kind, info, pipes[1]);
		close(pipes[1]);
		CHECK(read(pipes[0], &byte, 1) == 1);
		close(pipes[0]);
	}
	for (int kind = 0; kind < KINDS; kind++) {
		int status;

		/* Anywhere in it; which instant it is does not matter. */
		usleep(5000 + 3000 * kind);
		kill(children[kind], SIGKILL);
		CHECK(waitpid(children[kind], &status, 0) == children[kind]);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	}
}

int main(void)
{
	struct vgpu_info info = { 0 };
	int fd = xopen();

	CHECK(ioctl(fd, VGPU_IOC_INFO, &info) == 0);
	close(fd);
	test_killed(&info);
	session_works();
	test_threads(&info);
	test_close(&info);
	test_inherited_file(&info);
	session_works();
	printf("%s\n", failures ? "FAILED" : "ok");
	return failures ? 1 : 0;
}

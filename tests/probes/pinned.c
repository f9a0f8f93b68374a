/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What ends a DMA into registered pages? First the mapping is changed under the transfer, then the
 * process is killed. The pages belong to a memory file which somebody else keeps mapped (the VM):
 * once the process is reaped nothing may write them, or they may never be used again.
 */
#include "common.h"

#define SIZE GIB
#define PAGES (SIZE / 4096)

/* How many pages of the file hold `value` in their last word. */
static long pages_with(const volatile uint32_t *file, uint32_t value)
{
	long n = 0;

	for (uint64_t p = 0; p < PAGES; p++)
		n += file[p * 1024 + 1023] == value;
	return n;
}

enum change { NOTHING, MUNMAP, DONTNEED, TRUNCATE, PUNCH_HOLE, REPLACE };

static int change_mapping(enum change how, char *at, int fd, int other_fd)
{
	switch (how) {
	case NOTHING: return 0;
	case MUNMAP: return munmap(at, SIZE);
	case DONTNEED: return madvise(at, SIZE, MADV_DONTNEED);
	case TRUNCATE: return ftruncate(fd, 0) || ftruncate(fd, SIZE);
	case PUNCH_HOLE: return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE);
	case REPLACE: return mmap(at, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, other_fd, 0) == at ? 0 : -1;
	}
	return -1;
}

static void under_dma(void *arg)
{
	enum change how = *(enum change *)arg;
	struct gpu g;
	CUstream s;
	CUdeviceptr d;

	gpu_open(&g);
	CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	CK(cuMemAlloc(&d, SIZE));
	int fd = memory_file(SIZE), other_fd = memory_file(SIZE);
	char *at = map_file(fd, SIZE, NULL);
	volatile uint32_t *file = map_file(fd, SIZE, NULL), *other = map_file(other_fd, SIZE, NULL);
	memset((void *)file, 0, SIZE);
	CK(cuMemHostRegister(at, SIZE, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP));

	CK(cuMemsetD32Async(d, 0x11111111, SIZE / 4, s));
	for (int i = 0; i < 20; i++) /* about 0.4 s */
		CK(cuMemcpyDtoHAsync(at, d, SIZE, s));
	sleep_ms(60);
	CUresult before = cuStreamQuery(s);
	double t = now();
	int rc = change_mapping(how, at, fd, other_fd), e = errno;
	t = now() - t;
	CUresult after = cuStreamQuery(s);
	row("changed while copying", "%s, %.1f ms; copying before %s, after %s", rc ? strerror(e) : "ok", t * 1e3,
	    before == CUDA_ERROR_NOT_READY ? "yes" : "NO", after == CUDA_ERROR_NOT_READY ? "yes" : err(after));
	row("copy ends with", "%s", err(cuStreamSynchronize(s)));
	row("  pages of the file written", "%ld of %lld", pages_with(file, 0x11111111), PAGES);
	CUresult r = cuMemsetD32Async(d, 0x22222222, SIZE / 4, s);
	if (!r)
		r = cuMemcpyDtoHAsync(at, d, SIZE, s);
	CUresult sync = cuStreamSynchronize(s);
	row("a later copy", "%s, ends with %s; file pages written %ld, of the replacing file %ld", err(r), err(sync),
	    pages_with(file, 0x22222222), how == REPLACE ? pages_with(other, 0x22222222) : 0L);
	t = now();
	r = cuMemHostUnregister(at);
	row("cuMemHostUnregister", "%s, %.1f ms", err(r), (now() - t) * 1e3);
	r = gpu_null(&g, s);
	row("a launch after all this", "%s, %s", err(r), err(cuStreamSynchronize(s)));
}

enum keep { KEEP_NONE, KEEP_CONTROL, KEEP_ALL };
struct kill_case {
	const char *name;
	enum keep keep;
};
static int file_fd, worker_sock;
static enum keep keep;

/* Registers the file and copies a new number into all its pages, again and again for 3 s. */
static void worker(void *arg)
{
	struct gpu g;
	CUstream s;
	CUdeviceptr d;
	int fds[200], n = 0;

	(void)arg;
	gpu_open(&g);
	CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	CK(cuMemAlloc(&d, SIZE));
	char *at = map_file(file_fd, SIZE, NULL);
	CK(cuMemHostRegister(at, SIZE, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP));
	for (int fd = 3; fd < 1024 && n < 200 && keep != KEEP_NONE; fd++) {
		char link[64], path[128] = "";

		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		if (readlink(link, path, sizeof path - 1) > 0 && !strncmp(path, keep == KEEP_ALL ? "/dev/nvidia" : "/dev/nvidiactl", keep == KEEP_ALL ? 11 : 14))
			fds[n++] = fd;
	}
	SYS(send_fds(worker_sock, fds, n) == n);
	for (uint32_t k = 1; k <= 150; k++) {
		CK(cuMemsetD32Async(d, k, SIZE / 4, s));
		CK(cuMemcpyDtoHAsync(at, d, SIZE, s));
	}
	for (;;)
		pause();
}

static uint32_t snapshots[4][PAGES];

static double snapshot(const volatile uint32_t *file, int i)
{
	double t = now();

	for (uint64_t p = 0; p < PAGES; p++)
		snapshots[i][p] = file[p * 1024 + 1023];
	return (now() - t) * 1e3;
}

static long changed(int i, int j)
{
	long n = 0;

	for (uint64_t p = 0; p < PAGES; p++)
		n += snapshots[i][p] != snapshots[j][p];
	return n;
}

static void killed(void *arg)
{
	struct kill_case *c = arg;
	int sock[2], fds[200];

	keep = c->keep;
	memset(snapshots, 0, sizeof snapshots); /* so that taking one is quick */
	file_fd = memory_file(SIZE);
	volatile uint32_t *file = map_file(file_fd, SIZE, NULL);
	memset((void *)file, 0, SIZE);
	SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, sock) == 0);
	worker_sock = sock[1];
	pid_t w = spawn(worker, NULL);
	close(sock[1]);
	int n = recv_fds(sock[0], fds, 200);
	SYS(n >= 0);
	double t = now();
	while (file[0] < 4 && now() - t < 5)
		sleep_ms(1);
	sleep_ms(37);
	if (file[0] < 4) {
		row("!! NO DMA SEEN", "nothing was killed in flight");
		kill(w, SIGKILL);
		waitpid(w, NULL, 0);
		return;
	}

	t = now();
	kill(w, SIGKILL);
	SYS(waitpid(w, NULL, 0) == w);
	double reaped = (now() - t) * 1e3, took = snapshot(file, 0);
	sleep_ms(200);
	snapshot(file, 1);
	sleep_ms(1000);
	snapshot(file, 2);
	row("reaped", "%.1f ms after SIGKILL, in copy %u of 150 (%d descriptors kept)", reaped, file[0], n);
	row("pages changed after the reap", "%ld within 0.2 s, %ld within the next 1 s (snapshot %.1f ms)", changed(0, 1), changed(1, 2), took);
	if (!n)
		return;
	t = now();
	for (int i = 0; i < n; i++)
		close(fds[i]);
	double closed = (now() - t) * 1e3;
	snapshot(file, 2);
	sleep_ms(300);
	snapshot(file, 3);
	row("kept descriptors closed", "%.1f ms; pages changed after that %ld, last copy seen %u", closed, changed(2, 3), file[0]);
}

int main(void)
{
	static const char *const changes[] = {"DMA, nothing changed", "DMA, munmap", "DMA, MADV_DONTNEED", "DMA, ftruncate to 0 and back", "DMA, hole punched", "DMA, other file mapped over"};
	static struct kill_case kills[] = {
		{"kill -9 in DMA (1)", KEEP_NONE},
		{"kill -9 in DMA (2)", KEEP_NONE},
		{"kill -9, nvidiactl fds kept elsewhere", KEEP_CONTROL},
		{"kill -9, all nvidia fds kept elsewhere", KEEP_ALL},
	};

	probe("pinned");
	for (enum change c = NOTHING; c <= REPLACE; c++)
		run_case(changes[c], 15, under_dma, &c);
	for (unsigned i = 0; i < sizeof kills / sizeof *kills; i++)
		run_case(kills[i].name, 15, killed, &kills[i]);
	return 0;
}

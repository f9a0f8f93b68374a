/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Guest RAM is scattered: a pinned buffer is many runs of one memory file, mapped side by side at
 * a fixed address. What do mapping, registering and copying it cost, and is the copy right?
 */
#include "common.h"

#define SIZE GIB
#define PAGE 4096ull
#define BASE ((char *)0x500000000000)

struct layout {
	const char *name;
	int runs;
};
struct run {
	uint64_t off, len;
};

static uint64_t random_state = 88172645463325252ull;
static uint64_t random64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	return random_state ^= random_state << 17;
}

/* `n` runs that cover SIZE, shuffled; of one size up to 512 runs, of 1 to about 25 pages above. */
static struct run *make_runs(int n)
{
	struct run *r = calloc(n, sizeof *r);
	uint64_t pages = SIZE / PAGE, off = 0;

	SYS(r != NULL);
	for (int i = 0; i < n; i++) {
		uint64_t left = pages - off, mean = left / (n - i), len = mean;
		if (n > 512 && i < n - 1 && mean > 1) /* 1 to about twice the mean */
			len = 1 + random64() % (2 * mean - 1);
		if (len > left - (n - 1 - i) || i == n - 1)
			len = left - (n - 1 - i);
		r[i] = (struct run){off * PAGE, len * PAGE};
		off += len;
	}
	for (int i = n - 1; i > 0; i--) {
		int j = random64() % (i + 1);
		struct run t = r[i];
		r[i] = r[j];
		r[j] = t;
	}
	return r;
}

static double bandwidth(int to_device, CUdeviceptr d, void *h, CUstream s)
{
	double best = 1e9;

	for (int i = 0; i < 4; i++) {
		double t = now();
		CK(to_device ? cuMemcpyHtoDAsync(d, h, SIZE, s) : cuMemcpyDtoHAsync(h, d, SIZE, s));
		CK(cuStreamSynchronize(s));
		t = now() - t;
		if (t < best)
			best = t;
	}
	return SIZE / best / 1e9;
}

static void scattered(void *arg)
{
	struct layout *l = arg;
	struct gpu g;
	CUstream s;
	CUdeviceptr d, same;

	gpu_open(&g);
	CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	CK(cuMemAlloc(&d, SIZE));
	int fd = memory_file(SIZE);
	uint64_t *file = map_file(fd, SIZE, NULL);
	for (uint64_t i = 0; i < SIZE / 8; i++)
		file[i] = i * 0x9e3779b97f4a7c15ull;

	struct run *r = make_runs(l->runs);
	SYS(mmap(BASE, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) == BASE);
	char *at = BASE;
	double t = now();
	for (int i = 0; i < l->runs; at += r[i++].len)
		SYS(mmap(at, r[i].len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, r[i].off) == at);
	row("map", "%.1f ms", (now() - t) * 1e3);
	t = now();
	CUresult res = cuMemHostRegister(BASE, SIZE, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
	row("cuMemHostRegister", "%s, %.1f ms", err(res), (now() - t) * 1e3);
	if (res)
		return;
	CK(cuMemHostGetDevicePointer(&same, BASE, 0));
	row("device pointer", "%#llx, %s", same, same == (CUdeviceptr)BASE ? "the same" : "DIFFERENT");
	row("host to device", "%.1f GB/s", bandwidth(1, d, BASE, s));

	/* each run's first and last word must be at its place on the device */
	uint64_t *copy = malloc(SIZE), wrong = 0, pos = 0;
	SYS(copy != NULL);
	CK(cuMemcpyDtoH(copy, d, SIZE));
	for (int i = 0; i < l->runs; pos += r[i++].len)
		wrong += copy[pos / 8] != file[r[i].off / 8] || copy[(pos + r[i].len) / 8 - 1] != file[(r[i].off + r[i].len) / 8 - 1];
	memset(file, 0, SIZE);
	row("device to host", "%.1f GB/s", bandwidth(0, d, BASE, s));
	for (uint64_t i = 0; i < SIZE / 8; i++)
		wrong += file[i] != i * 0x9e3779b97f4a7c15ull;
	row("words wrong", "%llu", (unsigned long long)wrong);
	t = now();
	res = cuMemHostUnregister(BASE);
	row("cuMemHostUnregister", "%s, %.1f ms", err(res), (now() - t) * 1e3);
	t = now();
	SYS(munmap(BASE, SIZE) == 0);
	row("munmap", "%.1f ms", (now() - t) * 1e3);
}

int main(void)
{
	static struct layout layouts[] = {
		{"1 GiB, one run", 1},
		{"1 GiB, 512 runs of 2 MiB", 512},
		{"1 GiB, 20000 runs of 4 KiB and up", 20000},
	};

	probe("scattered");
	for (unsigned i = 0; i < sizeof layouts / sizeof *layouts; i++)
		run_case(layouts[i].name, 25, scattered, &layouts[i]);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Can a process that holds registered guest memory be suspended to host memory and brought back
 * (cuCheckpointProcess*)? What is left of the registration afterwards?
 */
#include "common.h"

#include <dlfcn.h>

#define HOST (64 * MIB)
#define DEVICE (512 * MIB)
#define ARENA ((void *)0x500000000000)

struct variant {
	const char *name;
	int registered; /* during the checkpoint */
	int by_itself;	/* the process checkpoints itself */
};
/* Turns between the operator (who checkpoints) and the holder (who has the context). */
struct turns {
	volatile int ready, done;
};
static struct turns *turns;
static struct variant variant;

static CUresult (*ck_lock)(int, CUcheckpointLockArgs *);
static CUresult (*ck_checkpoint)(int, CUcheckpointCheckpointArgs *);
static CUresult (*ck_restore)(int, CUcheckpointRestoreArgs *);
static CUresult (*ck_unlock)(int, CUcheckpointUnlockArgs *);
static CUresult (*ck_state)(int, CUprocessState *);

static int find_calls(void)
{
	*(void **)&ck_lock = dlsym(RTLD_DEFAULT, "cuCheckpointProcessLock");
	*(void **)&ck_checkpoint = dlsym(RTLD_DEFAULT, "cuCheckpointProcessCheckpoint");
	*(void **)&ck_restore = dlsym(RTLD_DEFAULT, "cuCheckpointProcessRestore");
	*(void **)&ck_unlock = dlsym(RTLD_DEFAULT, "cuCheckpointProcessUnlock");
	*(void **)&ck_state = dlsym(RTLD_DEFAULT, "cuCheckpointProcessGetState");
	return ck_lock && ck_checkpoint && ck_restore && ck_unlock && ck_state;
}

static int state(int pid)
{
	CUprocessState s = -1;

	return ck_state(pid, &s) == CUDA_SUCCESS ? (int)s : -1;
}

static char steps[400];

/* Adds one step's result and time to the row; 1 if it succeeded. */
static int step(int pid, const char *name, double start, CUresult r)
{
	size_t n = strlen(steps);

	snprintf(steps + n, sizeof steps - n, "%s %s %.1f ms (%d); ", name, err(r), (now() - start) * 1e3, state(pid));
	return r == CUDA_SUCCESS;
}

/* Lock, checkpoint, restore, unlock: as far as each goes. States: 0 running 1 locked 2 checkpointed 3 failed. */
static void suspend_and_resume(int pid)
{
	CUcheckpointLockArgs lock_args = {.timeoutMs = 5000};
	double t = now();

	if (step(pid, "lock", t, ck_lock(pid, &lock_args))) {
		t = now();
		if (step(pid, "checkpoint", t, ck_checkpoint(pid, NULL))) {
			t = now();
			step(pid, "restore", t, ck_restore(pid, NULL));
		}
		t = now();
		step(pid, "unlock", t, ck_unlock(pid, NULL));
	}
	row("calls (state after)", "%s", steps);
}

static void check_copies(CUdeviceptr d, volatile uint32_t *host, CUstream s, const char *what)
{
	CUresult r;
	double t, gbs = 0;
	long wrong = 0;

	for (uint64_t i = 0; i < HOST / 4; i++)
		host[i] = (uint32_t)i * 2654435761u;
	r = cuMemcpyHtoDAsync(d, (void *)host, HOST, s);
	if (!r)
		r = cuStreamSynchronize(s);
	memset((void *)host, 0, HOST);
	t = now();
	if (!r)
		r = cuMemcpyDtoHAsync((void *)host, d, HOST, s);
	double submitted = now() - t;
	if (!r)
		r = cuStreamSynchronize(s);
	gbs = HOST / (now() - t) / 1e9;
	for (uint64_t i = 0; i < HOST / 4; i++)
		wrong += host[i] != (uint32_t)i * 2654435761u;
	row(what, "%s, words wrong %ld, back at %.1f GB/s (submit %.0f us)", err(r), wrong, gbs, submitted * 1e6);
}

static void holder(void *arg)
{
	struct gpu g;
	CUstream s;
	CUdeviceptr d, big, seen = 0;
	uint32_t first = 0, last = 0;

	(void)arg;
	gpu_open(&g);
	CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	CK(cuMemAlloc(&d, HOST));
	CK(cuMemAlloc(&big, DEVICE));
	CK(cuMemsetD32(big, 0xabcd1234, DEVICE / 4));
	int fd = memory_file(HOST);
	volatile uint32_t *host = map_file(fd, HOST, ARENA);
	CK(cuMemHostRegister((void *)host, HOST, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP));
	check_copies(d, host, s, "copies before");
	if (!variant.registered)
		CK(cuMemHostUnregister((void *)host));

	if (variant.by_itself) {
		suspend_and_resume(getpid());
	} else {
		turns->ready = 1;
		while (!turns->done)
			sleep_ms(1);
	}

	CK(cuMemcpyDtoH(&first, big, 4));
	CK(cuMemcpyDtoH(&last, big + DEVICE - 4, 4));
	CUresult r = cuMemHostGetDevicePointer(&seen, (void *)host, 0);
	row("after", "device memory %s; device pointer of the range %s %#llx%s", first == 0xabcd1234 && last == 0xabcd1234 ? "intact" : "WRONG", err(r), seen,
	    !r && seen == (CUdeviceptr)ARENA ? ", the same" : "");
	if (!variant.registered) {
		double t = now();
		r = cuMemHostRegister((void *)host, HOST, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
		row("registered again", "%s, %.1f ms", err(r), (now() - t) * 1e3);
	}
	check_copies(d, host, s, "copies after");
	/* the GPU reads and writes the range through its own mapping */
	host[0] = 0;
	r = cuStreamWriteValue32(s, (CUdeviceptr)ARENA, 77, 0);
	CUresult sync = cuStreamSynchronize(s);
	row("GPU writes the range after", "%s, %s, value %u (77 is right)", err(r), err(sync), host[0]);
	CK(gpu_null(&g, s));
	CK(cuStreamSynchronize(s));
	row("cuMemHostUnregister after", "%s", err(cuMemHostUnregister((void *)host)));
}

static void suspended(void *arg)
{
	int status;

	variant = *(struct variant *)arg;
	turns = shared_page();
	if (!find_calls()) {
		row("!! MISSING", "libcuda has no cuCheckpointProcess*");
		return;
	}
	if (variant.by_itself) {
		holder(NULL);
		return;
	}
	pid_t p = spawn(holder, NULL);
	CK(cuInit(0));
	double t = now();
	while (!turns->ready && now() - t < 8)
		sleep_ms(1);
	if (turns->ready)
		suspend_and_resume(p);
	turns->done = 1;
	SYS(waitpid(p, &status, 0) == p);
	if (status)
		row("!! HOLDER ENDED BADLY", "status %#x", status);
}

int main(void)
{
	static struct variant variants[] = {
		{"registered memfd", 1, 0},
		{"registration undone first", 0, 0},
		{"registered memfd, by itself", 1, 1},
	};

	probe("checkpoint");
	for (unsigned i = 0; i < sizeof variants / sizeof *variants; i++)
		run_case(variants[i].name, 15, suspended, &variants[i]);
	return 0;
}

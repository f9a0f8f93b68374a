/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * While a process' compute channels are stopped, which calls of another of its threads return, and
 * which wait for the resume? Does work on new streams and contexts run? Each case stops a running
 * kernel, sees that it stands still, makes one call, resumes after 0.5 s and checks the result.
 */
#include "common.h"
#include "rm.h"

#define RESUME_AFTER 0.5
#define DEAD_MAN 2.0

static struct gpu g;
static CUstream kernel_stream, idle_stream, waiting_stream;
static CUcontext other_ctx;
static CUdeviceptr out, memory, old_memory;
static volatile uint64_t *progress;
static char *host, *registered_host;
static char pageable[MIB];

/* What the call of the case is, in a thread of its own. */
static CUresult op_none(void) { return CUDA_SUCCESS; }
static CUresult op_alloc(void) { CUdeviceptr d; return cuMemAlloc(&d, 64 * MIB); }
static CUresult op_free(void) { return cuMemFree(old_memory); }
static CUresult op_host_alloc(void) { void *p; return cuMemHostAlloc(&p, 4 * MIB, 0); }
static CUresult op_register(void) { return cuMemHostRegister(host, 4 * MIB, CU_MEMHOSTREGISTER_PORTABLE); }
static CUresult op_unregister(void) { return cuMemHostUnregister(registered_host); }
static CUresult op_copy(void) { return cuMemcpyHtoD(memory, pageable, sizeof pageable); }
static CUresult op_destroy_idle(void) { return cuStreamDestroy(idle_stream); }
static CUresult op_destroy_waiting(void) { return cuStreamDestroy(waiting_stream); }
static CUresult op_destroy_busy(void) { return cuStreamDestroy(kernel_stream); }
static CUresult op_destroy_ctx(void) { return cuCtxDestroy(g.ctx); }
static CUresult op_destroy_other_ctx(void) { return cuCtxDestroy(other_ctx); }

static CUresult op_module(void)
{
	static const char image[] = ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry another() { ret; }\n";
	CUmodule m;
	CUfunction f;
	CUresult r = cuModuleLoadData(&m, image);

	return r ? r : cuModuleGetFunction(&f, m, "another");
}

static CUresult op_copy_async(void)
{
	CUresult r = cuMemcpyHtoDAsync(memory, registered_host, MIB, idle_stream);

	return r ? r : cuStreamSynchronize(idle_stream);
}

static CUresult op_event(void)
{
	CUevent e;
	CUresult r = cuEventCreate(&e, CU_EVENT_DISABLE_TIMING);

	if (!r)
		r = cuEventRecord(e, idle_stream);
	while (!r && (r = cuEventQuery(e)) == CUDA_ERROR_NOT_READY)
		r = CUDA_SUCCESS, sleep_ms(1);
	return r;
}

static CUresult launch_and_wait(CUstream s)
{
	CUresult r = gpu_null(&g, s);

	return r ? r : cuStreamSynchronize(s);
}

static CUresult op_launch(void) { return launch_and_wait(idle_stream); }

static CUresult op_new_stream(void)
{
	CUstream s;
	CUresult r = cuStreamCreate(&s, CU_STREAM_NON_BLOCKING);

	return r ? r : launch_and_wait(s);
}

static CUresult op_new_stream_only(void)
{
	CUstream s;

	return cuStreamCreate(&s, CU_STREAM_NON_BLOCKING);
}

static CUresult op_new_priority_stream(void)
{
	CUstream s;
	CUresult r = cuStreamCreateWithPriority(&s, CU_STREAM_NON_BLOCKING, -5);

	return r ? r : launch_and_wait(s);
}

static CUresult op_new_ctx(void)
{
	struct gpu second;

	gpu_open(&second); /* makes a context, launches in it and waits */
	return CUDA_SUCCESS;
}

struct op {
	const char *name;
	CUresult (*call)(void);
	int other_ctx;	 /* make a second, idle context first */
	int ends_kernel; /* the kernel's result cannot be read afterwards */
};

static volatile double op_done_at; /* seconds; 0: still in the call */
static volatile CUresult op_result;
static volatile int resumed;
static double stopped_at;

static void *op_thread(void *arg)
{
	const struct op *op = arg;

	CK(cuCtxSetCurrent(g.ctx));
	CUresult r = op->call();
	op_result = r;
	op_done_at = now();
	return NULL;
}

static void *dead_man(void *arg)
{
	(void)arg;
	while (!resumed && now() - stopped_at < DEAD_MAN)
		sleep_ms(5);
	if (!resumed) {
		uint32_t r = rm_resume();
		resumed = 1;
		row("!! DEAD MAN", "resumed after 2 s: status %#x", r);
	}
	return NULL;
}

static double ms_after_stop(double t)
{
	return (t - stopped_at) * 1e3;
}

static void while_stopped(void *arg)
{
	const struct op *op = arg;
	pthread_t th, guard;

	gpu_open(&g);
	CK(cuStreamCreate(&kernel_stream, CU_STREAM_NON_BLOCKING));
	CK(cuStreamCreate(&idle_stream, CU_STREAM_NON_BLOCKING));
	CK(cuStreamCreate(&waiting_stream, CU_STREAM_NON_BLOCKING));
	CK(cuMemHostAlloc((void **)&progress, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
	CK(cuMemAlloc(&out, 4096));
	CK(cuMemAlloc(&memory, MIB));
	CK(cuMemAlloc(&old_memory, 64 * MIB));
	host = map_file(memory_file(4 * MIB), 4 * MIB, NULL);
	registered_host = map_file(memory_file(4 * MIB), 4 * MIB, NULL);
	memset(host, 1, 4 * MIB);
	memset(registered_host, 1, 4 * MIB);
	CK(cuMemHostRegister(registered_host, 4 * MIB, CU_MEMHOSTREGISTER_PORTABLE));
	if (op->other_ctx) {
		CK(cuCtxCreate(&other_ctx, NULL, 0, g.dev));
		CK(cuCtxSetCurrent(g.ctx));
	}
	CK(cuMemcpyHtoDAsync(memory, registered_host, MIB, idle_stream));
	CK(gpu_null(&g, idle_stream));
	CK(cuCtxSynchronize());
	uint64_t iters = (uint64_t)(work_rate(&g) * 0.3);
	int made = rm_channels_made(), channels = rm_compute_channels();

	*progress = 0;
	CK(gpu_work(&g, kernel_stream, iters, 1, out, (CUdeviceptr)progress));
	double t = now();
	while (!*progress && now() - t < 2)
		;
	SYS(*progress != 0);
	CK(gpu_null(&g, waiting_stream));
	stopped_at = now();
	SYS(pthread_create(&guard, NULL, dead_man, NULL) == 0);
	uint32_t stop_status = rm_stop();
	double stop_took = now() - stopped_at;
	sleep_ms(2);
	uint64_t seen = *progress;
	sleep_ms(20);
	int still = *progress == seen;

	double call_at = now();
	SYS(pthread_create(&th, NULL, op_thread, (void *)op) == 0);
	while (now() - stopped_at < RESUME_AFTER)
		sleep_ms(1);
	int waiting = op_done_at == 0, stands = *progress == seen;
	t = now();
	uint32_t resume_status = rm_resume();
	double resume_took = now() - t;
	resumed = 1;

	char kernel[96] = "not checked";
	if (!op->ends_kernel) {
		CUresult r = cuCtxSynchronize();
		double end = now();
		uint32_t result[256], wrong = 0;

		if (!r)
			r = cuMemcpyDtoH(result, out, sizeof result);
		for (uint32_t i = 0; !r && i < 256; i++)
			wrong += result[i] != work_result(i, iters);
		snprintf(kernel, sizeof kernel, "%s, %s, %s, ended at %.0f",
			 !still ? "DID NOT STOP" : !stands ? "MOVED WHILE STOPPED" : "stood still", err(r), wrong ? "results WRONG" : "results right",
			 ms_after_stop(end));
	}
	pthread_join(th, NULL);
	pthread_join(guard, NULL);
	row(waiting ? "WAITS for the resume" : "returns while stopped", "%s in %.2f ms; kernel %s; new channels %d", err(op_result),
	    (op_done_at - call_at) * 1e3, kernel, rm_channels_made() - made);
	if (stop_status || resume_status || op->call == op_none)
		row("stop and resume", "%d channels: %#x %.2f ms, %#x %.2f ms, resumed at %.0f ms after the stop", channels, stop_status, stop_took * 1e3,
		    resume_status, resume_took * 1e3, ms_after_stop(t));
}

int main(void)
{
	static const struct op ops[] = {
		{"no call", op_none, 0, 0},
		{"cuMemAlloc", op_alloc, 0, 0},
		{"cuMemFree, unrelated", op_free, 0, 0},
		{"cuMemHostAlloc", op_host_alloc, 0, 0},
		{"cuMemHostRegister", op_register, 0, 0},
		{"cuMemHostUnregister", op_unregister, 0, 0},
		{"cuMemcpyHtoD, pageable", op_copy, 0, 0},
		{"cuMemcpyHtoDAsync + sync", op_copy_async, 0, 0},
		{"cuEventRecord + query", op_event, 0, 0},
		{"cuModuleLoadData", op_module, 0, 0},
		{"launch, existing stream", op_launch, 0, 0},
		{"new stream", op_new_stream_only, 0, 0},
		{"new stream + launch", op_new_stream, 0, 0},
		{"new high-priority stream + launch", op_new_priority_stream, 0, 0},
		{"new context + launch", op_new_ctx, 0, 0},
		{"cuStreamDestroy, idle", op_destroy_idle, 0, 0},
		{"cuStreamDestroy, launch waiting", op_destroy_waiting, 0, 0},
		{"cuStreamDestroy, kernel's", op_destroy_busy, 0, 0},
		{"cuCtxDestroy, another", op_destroy_other_ctx, 1, 0},
		{"cuCtxDestroy, the stopped one", op_destroy_ctx, 0, 1},
	};

	probe("stopped");
	for (unsigned i = 0; i < sizeof ops / sizeof *ops; i++)
		run_case(ops[i].name, 12, while_stopped, (void *)&ops[i]);
	return 0;
}

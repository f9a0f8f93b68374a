/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Is a stop counted? Stops a running kernel several times in a row, holds it for a while, and resumes it
 * until it moves again. And: does a stop hold after resumes of what was not stopped?
 */
#include "common.h"
#include "rm.h"

struct shape {
	const char *name;
	int resumes_before; /* of what runs */
	int stops;
	double apart_s, held_s;
};

static struct gpu g;
static volatile uint64_t *progress;

static int moves(void)
{
	uint64_t seen = *progress;
	double t = now();

	while (*progress == seen && now() - t < 0.3)
		;
	return *progress != seen;
}

static void stops_and_resumes(void *arg)
{
	const struct shape *s = arg;
	CUstream stream;
	CUdeviceptr out;
	int resumes = 0, moved = 0;

	gpu_open(&g);
	CK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	CK(cuMemHostAlloc((void **)&progress, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
	CK(cuMemAlloc(&out, 4096));
	CK(cuCtxSynchronize());
	uint64_t iters = (uint64_t)(work_rate(&g) * 1.5);
	*progress = 0;
	CK(gpu_work(&g, stream, iters, 1, out, (CUdeviceptr)progress));
	double t = now();
	while (!*progress && now() - t < 2)
		;
	SYS(*progress != 0);
	/* Names the channels: a resume is of what was stopped last. */
	uint32_t status = rm_stop() | rm_resume();
	for (int i = 0; i < s->resumes_before; i++)
		status |= rm_resume();
	for (int i = 0; i < s->stops; i++) {
		status |= rm_stop();
		sleep_ms(s->apart_s * 1e3);
	}
	sleep_ms(s->held_s * 1e3);
	int stood = !moves();
	while (!moved && resumes < 2 * s->stops + 2) {
		status |= rm_resume();
		resumes++;
		moved = moves();
	}
	CUresult r = moved ? cuCtxSynchronize() : CUDA_ERROR_NOT_READY;
	uint32_t result[256], wrong = 0;
	if (!r)
		r = cuMemcpyDtoH(result, out, sizeof result);
	for (uint32_t i = 0; !r && i < 256; i++)
		wrong += result[i] != work_result(i, iters);
	row(stood ? "stands still" : "!! MOVES", "%s after %d resume(s); statuses %#x; %s%s", moved ? "moves" : "NEVER MOVES AGAIN", resumes, status, err(r),
	    r ? "" : wrong ? ", results WRONG" : ", results right");
}

int main(void)
{
	static const struct shape shapes[] = {
		{"1 stop, 0.1 s", 0, 1, 0, 0.1},
		{"2 stops, 0.1 s", 0, 2, 0.01, 0.1},
		{"5 stops, 0.1 s", 0, 5, 0.01, 0.1},
		{"1 stop, 5 s", 0, 1, 0, 5},
		{"1 stop, 12 s", 0, 1, 0, 12},
		{"5 stops, 1 s apart", 0, 5, 1, 0},
		{"3 resumes of what runs, then 1 stop", 3, 1, 0, 0.1},
	};

	probe("repeated");
	for (unsigned i = 0; i < sizeof shapes / sizeof *shapes; i++)
		run_case(shapes[i].name, 25, stops_and_resumes, (void *)&shapes[i]);
	return 0;
}

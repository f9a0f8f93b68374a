/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the calls on the hot path cost, alone and beside other threads of the process. */
#include "common.h"

#define N 20000
static struct gpu g;
static double v[N];

static void alone(void *arg)
{
	(void)arg;
	CUstream s;
	CUevent e;
	CUdeviceptr d, out;
	volatile uint64_t *word;

	gpu_open(&g);
	CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	CK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
	CK(cuMemHostAlloc((void **)&word, MIB, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP));
	CK(cuMemAlloc(&d, MIB));
	CK(cuMemAlloc(&out, 4096));

	double t = now();
	for (int i = 0; i < N; i++)
		CK(gpu_null(&g, s));
	CK(cuStreamSynchronize(s));
	row("null launches back to back", "%.2f us each", (now() - t) / N * 1e6);

#define TIMED(n, what, call) \
	do { \
		for (int i = 0; i < (n); i++) { \
			t = now(); \
			call; \
			v[i] = now() - t; \
		} \
		CK(cuCtxSynchronize()); \
		row_us(what, v, n); \
	} while (0)

	TIMED(500, "submit null launch, queue not full", CK(gpu_null(&g, s)));
	TIMED(5000, "launch + cuCtxSynchronize", CK(gpu_null(&g, s)); CK(cuCtxSynchronize()));
	TIMED(5000, "launch + cuStreamSynchronize", CK(gpu_null(&g, s)); CK(cuStreamSynchronize(s)));
	*word = 0;
	TIMED(5000, "launch + cuStreamWriteValue64 + spin", CK(gpu_null(&g, s));
	      CK(cuStreamWriteValue64(s, (CUdeviceptr)word, i + 1, 0)); while (*word != (uint64_t)i + 1));
	TIMED(5000, "launch + cuEventRecord + query spin", CK(gpu_null(&g, s)); CK(cuEventRecord(e, s));
	      while (cuEventQuery(e) == CUDA_ERROR_NOT_READY));
	TIMED(500, "submit cuEventRecord", CK(cuEventRecord(e, s)));
	TIMED(500, "submit cuStreamWriteValue64", CK(cuStreamWriteValue64(s, (CUdeviceptr)word, 1, 0)));
	TIMED(500, "submit cuMemcpyHtoDAsync 4 KiB", CK(cuMemcpyHtoDAsync(d, (void *)word, 4096, s)));
	TIMED(5000, "cuEventQuery, done", CK(cuEventQuery(e)));
	TIMED(5000, "cuStreamQuery, idle", CK(cuStreamQuery(s)));

	uint64_t iters = (uint64_t)(work_rate(&g) * 0.4);
	CK(gpu_work(&g, s, iters, 1, out, (CUdeviceptr)word));
	CK(cuEventRecord(e, s));
	int busy = 0;
	TIMED(5000, "cuEventQuery, not ready", busy += cuEventQuery(e) == CUDA_ERROR_NOT_READY);
	row("  of 5000 not ready", "%d", busy);
	busy = 0;
	CK(gpu_work(&g, s, iters, 1, out, (CUdeviceptr)word));
	TIMED(5000, "cuStreamQuery, busy", busy += cuStreamQuery(s) == CUDA_ERROR_NOT_READY);
	row("  of 5000 busy", "%d", busy);
}

enum poll { NOBODY, EVENT, EVENT_20US, STREAM, WORD };
static volatile int stop;
static enum poll mode;
static CUstream busy_stream;
static CUevent busy_event;
static volatile uint64_t *host_word;
static uint64_t polls;

static void *poller(void *arg)
{
	(void)arg;
	CUresult r = CUDA_ERROR_NOT_READY;

	CK(cuCtxSetCurrent(g.ctx));
	while (!stop && r == CUDA_ERROR_NOT_READY) {
		polls++;
		switch (mode) {
		case NOBODY: sleep_ms(1); break;
		case WORD: (void)*host_word; break;
		case EVENT: r = cuEventQuery(busy_event); break;
		case EVENT_20US: r = cuEventQuery(busy_event); usleep(20); break;
		case STREAM: r = cuStreamQuery(busy_stream); break;
		}
	}
	if (!stop)
		row("!! POLLER ENDED EARLY", "%s", err(r));
	return NULL;
}

static void beside_poller(void *arg)
{
	(void)arg;
	static const char *const names[] = {"launch: other thread sleeps", "launch: other polls cuEventQuery", "launch: other cuEventQuery + 20 us sleep",
					    "launch: other polls cuStreamQuery", "launch: other spins on host word"};
	CUstream s;
	CUdeviceptr out;

	gpu_open(&g);
	CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	CK(cuStreamCreate(&busy_stream, CU_STREAM_NON_BLOCKING));
	CK(cuEventCreate(&busy_event, CU_EVENT_DISABLE_TIMING));
	CK(cuMemHostAlloc((void **)&host_word, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
	CK(cuMemAlloc(&out, 4096));
	uint64_t iters = (uint64_t)(work_rate(&g) * 0.6);
	for (mode = NOBODY; mode <= WORD; mode++) {
		pthread_t th;
		int n = 0;

		CK(gpu_work(&g, busy_stream, iters, 1, out, (CUdeviceptr)host_word));
		CK(cuEventRecord(busy_event, busy_stream));
		stop = 0;
		polls = 0;
		SYS(pthread_create(&th, NULL, poller, NULL) == 0);
		double start = now(), t;
		while (n < N && (t = now()) - start < 0.3) {
			CK(gpu_null(&g, s));
			v[n++] = now() - t;
		}
		double each = (now() - start) / n;
		stop = 1;
		pthread_join(th, NULL);
		CK(cuCtxSynchronize());
		char what[64];
		snprintf(what, sizeof what, "%s", names[mode]);
		row_us(what, v, n);
		row("  mean, and polls by the other", "%.2f us, %llu", each * 1e6, (unsigned long long)polls);
	}
}

static int threads;
static pthread_barrier_t start_line;

static void *launcher(void *result)
{
	CUstream s;
	int n = 0;

	CK(cuCtxSetCurrent(g.ctx));
	CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	pthread_barrier_wait(&start_line);
	double t = now();
	while (now() - t < 0.3)
		for (int i = 0; i < 20; i++, n++)
			CK(gpu_null(&g, s));
	*(double *)result = n / (now() - t);
	CK(cuStreamSynchronize(s));
	return NULL;
}

static void launchers(void *arg)
{
	(void)arg;
	gpu_open(&g);
	for (threads = 1; threads <= 4; threads *= 2) {
		pthread_t th[4];
		double rate[4], sum = 0;

		pthread_barrier_init(&start_line, NULL, threads);
		for (int i = 0; i < threads; i++)
			SYS(pthread_create(&th[i], NULL, launcher, &rate[i]) == 0);
		for (int i = 0; i < threads; i++) {
			pthread_join(th[i], NULL);
			sum += rate[i];
		}
		char what[64];
		snprintf(what, sizeof what, "%d thread(s), a stream each", threads);
		row(what, "%.2f us per launch and thread, %.0f launches/ms in all", threads / sum * 1e6, sum / 1e3);
	}
}

int main(void)
{
	probe("costs");
	run_case("alone", 20, alone, NULL);
	run_case("beside a poller", 20, beside_poller, NULL);
	run_case("launching threads", 15, launchers, NULL);
	return 0;
}

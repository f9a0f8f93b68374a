/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What every probe needs: time, result rows, a GPU with two kernels, cases in child processes. */
#ifndef PROBE_COMMON_H
#define PROBE_COMMON_H

#include <cuda.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define TIB (1ull << 40)

/* Seconds on the monotonic clock. */
double now(void);
void sleep_ms(double ms);

/* The driver's name for a result, for example CUDA_SUCCESS. */
const char *err(CUresult r);

/* One line of the result table: probe, case, what, value (tab separated, one write). */
void row(const char *what, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* p50, p99 and maximum of n durations in seconds, printed in microseconds. Sorts them. */
void row_us(const char *what, double *seconds, int n);

/* A call that must succeed, or the case ends with a row that says which did not. */
void must(CUresult r, const char *call, int line);
#define CK(call) must((call), #call, __LINE__)
void must_sys(int ok, const char *call, int line);
#define SYS(cond) must_sys((cond), #cond, __LINE__)

struct gpu {
	CUdevice dev;
	CUcontext ctx;
	CUmodule mod;
	CUfunction null, work;
};
void gpu_open(struct gpu *g);
CUresult gpu_null(struct gpu *g, CUstream s);
/*
 * `blocks` of 256 threads, each doing `iters` steps of a linear congruential generator started
 * with its own number, then storing it in out[number]. Thread 0 stores its step count in
 * *progress every 65536 steps, so that a host which maps it sees whether the kernel moves.
 */
CUresult gpu_work(struct gpu *g, CUstream s, uint64_t iters, int blocks, CUdeviceptr out, CUdeviceptr progress);
/* What thread `id` must have stored. */
uint32_t work_result(uint32_t id, uint64_t iters);
/* Steps per second of one block running alone. */
double work_rate(struct gpu *g);

/* A file in memory, and a shared mapping of it (at `at` exactly, or anywhere if NULL). */
int memory_file(uint64_t size);
void *map_file(int fd, uint64_t size, void *at);
/* A page that a forked child shares with its parent. */
void *shared_page(void);

/* A child that dies with its parent; it runs fn(arg) and exits. */
pid_t spawn(void (*fn)(void *), void *arg);
int send_fds(int sock, const int *fds, int n);
int recv_fds(int sock, int *fds, int max);

/* Names the probe for the rows, and makes output unbuffered. */
void probe(const char *name);
/* Runs fn(arg) in a child process group, killed after timeout_s seconds. */
void run_case(const char *name, int timeout_s, void (*fn)(void *), void *arg);

#endif

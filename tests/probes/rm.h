/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The resource manager's objects below this process' CUDA contexts, learned by standing between
 * libcuda and the ioctl system call (link with -rdynamic), and the control that stops and resumes
 * the compute channels.
 */
#ifndef PROBE_RM_H
#define PROBE_RM_H

#include <stdint.h>

/* Compute channels alive, and channels of any engine ever made. */
int rm_compute_channels(void);
int rm_channels_made(void);
/* Stops the compute channels known now. 0, a resource manager status, or 0xE0000000 | errno. */
uint32_t rm_stop(void);
/* Resumes those which the last rm_stop stopped. */
uint32_t rm_resume(void);

#endif

// SPDX-License-Identifier: Apache-2.0 OR MIT
// Programs that work from SIGUSR1 until SIGTERM, so that several begin and end together. The signals stay blocked, in the
// threads that the library starts as well, and are asked for.
#pragma once
#include <signal.h>
#include <stdio.h>
#include <time.h>

static inline sigset_t only_signal(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    return set;
}

// Before anything starts a thread.
static inline void block_signals(void) {
    sigset_t begin = only_signal(SIGUSR1), end = only_signal(SIGTERM);
    pthread_sigmask(SIG_BLOCK, &begin, NULL);
    pthread_sigmask(SIG_BLOCK, &end, NULL);
}

// Says that all is ready, and waits until it is to begin.
static inline void wait_to_begin(const char *program) {
    sigset_t begin = only_signal(SIGUSR1);
    int signal;
    printf("%s: ready\n", program);
    sigwait(&begin, &signal);
    printf("%s: running\n", program);
}

static inline int told_to_end(void) {
    static int told;
    sigset_t end = only_signal(SIGTERM);
    struct timespec now = {0, 0};
    if (!told)
        told = sigtimedwait(&end, NULL, &now) == SIGTERM;
    return told;
}

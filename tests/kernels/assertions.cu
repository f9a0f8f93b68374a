// A condition that the device checks.
#ifndef __CUDACC_RTC__ // which has it built in
#include <assert.h>
#endif

extern "C" __global__ void check_that(int yes, int *out)
{
    assert(yes);
    *out = 1;
}

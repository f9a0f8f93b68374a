// SPDX-License-Identifier: Apache-2.0 OR MIT
// A file as a string in the program: kernels as a compiler made them. The path begins at this folder.
#pragma once

#define EMBED(name, path)                                                                                          \
    __asm__(".pushsection .rodata\n" #name ":\n.incbin \"" path "\"\n.byte 0\n.popsection\n");                     \
    extern const char name[]

//! Kernels on the machine alone, without the driver.

use softgpu_cuda::ptx::interp::{Aborted, FaultKind, Gate, Launch, Memory, Span, Stop, run};
use softgpu_cuda::ptx::ir::Kernel;
use softgpu_cuda::ptx::lower::{Symbols, lower};
use softgpu_cuda::ptx::parse::parse;
use std::cell::Cell;

const KERNELS: &str = include_str!("kernels.ptx");

fn kernel_of(text: &str, name: &str) -> Kernel {
    let module = parse(text).unwrap();
    let function = module.functions.iter().find(|f| f.name == name).unwrap();
    lower(&module, function, &Symbols::new()).unwrap()
}

fn kernel(name: &str) -> Kernel {
    kernel_of(KERNELS, name)
}

/// A kernel `k(u64 out)` of some instructions; `%rd0` is the address and `%r0` the thread.
fn snippet(body: &str) -> Kernel {
    let text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.entry k(.param .u64 out) {{\n\
         .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<16>; .reg .b64 %rd<16>; .reg .f32 %f<8>; .reg .f64 %d<8>;\n\
         ld.param.u64 %rd0, [out]; mov.u32 %r0, %tid.x;\n{body}\nret; }}"
    );
    kernel_of(&text, "k")
}

/// Slices as the kernel's memory.
struct Slices(Vec<Span>);

impl Slices {
    fn of(slices: &mut [&mut [u64]]) -> Slices {
        Slices(
            slices
                .iter_mut()
                .map(|s| {
                    let start = s.as_mut_ptr() as u64;
                    Span {
                        start,
                        end: start + size_of_val(&s[..]) as u64,
                        writable: true,
                    }
                })
                .collect(),
        )
    }

    fn address(&self, index: usize) -> u64 {
        self.0[index].start
    }
}

impl Memory for Slices {
    fn span(&self, address: u64) -> Option<Span> {
        self.0
            .iter()
            .copied()
            .find(|s| address >= s.start && address < s.end)
    }
}

/// Lets a kernel pass so many safe points.
struct Limit(Cell<u64>);

impl Gate for Limit {
    fn pause(&self) -> Result<(), Aborted> {
        self.0.set(self.0.get().checked_sub(1).ok_or(Aborted)?);
        Ok(())
    }
}

fn start(
    kernel: &Kernel,
    grid: u32,
    block: u32,
    params: &[u64],
    memory: &Slices,
    pauses: u64,
) -> Result<(), Stop> {
    let params: Vec<u8> = params.iter().flat_map(|p| p.to_le_bytes()).collect();
    assert!(params.len() >= kernel.param_bytes);
    run(&Launch {
        kernel,
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        dynamic_shared: 0,
        stack: 1 << 12,
        params: &params,
        memory,
        gate: &Limit(Cell::new(pauses)),
        id: 1,
    })
}

/// Runs a snippet with `threads` threads; gives the output words.
fn results(body: &str, threads: u32) -> Vec<u64> {
    let mut out = vec![0u64; 64];
    let memory = Slices::of(&mut [&mut out]);
    start(&snippet(body), 1, threads, &[memory.address(0)], &memory, 10_000).unwrap();
    out
}

/// One 64-bit result of one thread, left in `%rd1`.
fn value(body: &str) -> u64 {
    results(&format!("{body}\nst.global.u64 [%rd0], %rd1;"), 1)[0]
}

/// One 32-bit result of one thread, left in `%r1`.
fn value32(body: &str) -> u32 {
    value(&format!("{body}\ncvt.u64.u32 %rd1, %r1;")) as u32
}

fn floats(words: &mut [u64]) -> &mut [f32] {
    // SAFETY: two floats fill one word, and every bit pattern is a float.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() * 2) }
}

#[test]
fn saxpy_over_several_blocks() {
    let n = 1000;
    let (mut x, mut y) = (vec![0u64; n / 2], vec![0u64; n / 2]);
    for i in 0..n {
        floats(&mut x)[i] = i as f32;
        floats(&mut y)[i] = 1.0;
    }
    let memory = Slices::of(&mut [&mut x, &mut y]);
    let params = [
        (n as u64) | u64::from(2.5f32.to_bits()) << 32,
        memory.address(0),
        memory.address(1),
    ];
    start(&kernel("saxpy"), 4, 256, &params, &memory, 100).unwrap();
    assert!(
        floats(&mut y)
            .iter()
            .enumerate()
            .all(|(i, v)| *v == 2.5 * i as f32 + 1.0)
    );
}

#[test]
fn block_reduction_with_shared_memory_and_barriers() {
    let mut input: Vec<u64> = (0..512u64).map(|i| (2 * i) | (2 * i + 1) << 32).collect();
    let mut out = vec![0u64; 2];
    let memory = Slices::of(&mut [&mut out, &mut input]);
    start(
        &kernel("block_sum"),
        4,
        256,
        &[memory.address(0), memory.address(1)],
        &memory,
        1000,
    )
    .unwrap();
    let sums: Vec<u32> = out.iter().flat_map(|w| [*w as u32, (*w >> 32) as u32]).collect();
    for (block, sum) in sums.iter().enumerate() {
        let first = block as u32 * 256;
        assert_eq!(*sum, (first..first + 256).sum());
    }
}

#[test]
fn warp_shuffles() {
    // A butterfly sum over the warp, and what a shift down finds at the end of the warp.
    let out = results(
        "mov.u32 %r1, %r0;
         shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1; add.u32 %r1, %r1, %r2;
         shfl.sync.bfly.b32 %r2, %r1, 8, 31, -1; add.u32 %r1, %r1, %r2;
         shfl.sync.bfly.b32 %r2, %r1, 4, 31, -1; add.u32 %r1, %r1, %r2;
         shfl.sync.bfly.b32 %r2, %r1, 2, 31, -1; add.u32 %r1, %r1, %r2;
         shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; add.u32 %r1, %r1, %r2;
         shfl.sync.down.b32 %r3|%p1, %r0, 4, 31, -1;
         selp.u32 %r4, 1, 0, %p1;
         mul.wide.u32 %rd2, %r0, 8; add.u64 %rd3, %rd0, %rd2;
         st.global.v2.u16 [%rd3], {%r1, %r3}; st.global.u32 [%rd3+4], %r4;",
        32,
    );
    for (lane, word) in out.iter().take(32).enumerate() {
        assert_eq!(word & 0xffff, 496);
        let inside = lane + 4 < 32;
        assert_eq!(word >> 16 & 0xffff, (if inside { lane + 4 } else { lane }) as u64);
        assert_eq!(word >> 32, u64::from(inside));
    }
}

#[test]
fn up_and_indexed_shuffles_keep_to_their_segment() {
    let out = results(
        "shfl.sync.up.b32 %r1|%p1, %r0, 1, 0x1800, -1;
         shfl.sync.idx.b32 %r2|%p2, %r0, 3, 0x181f, -1;
         selp.u32 %r3, 1, 0, %p1;
         mul.wide.u32 %rd2, %r0, 8; add.u64 %rd3, %rd0, %rd2;
         st.global.v2.u16 [%rd3], {%r1, %r2}; st.global.u32 [%rd3+4], %r3;",
        32,
    );
    for (lane, word) in out.iter().take(32).enumerate() {
        let inside = lane % 8 > 0;
        assert_eq!(
            word & 0xffff,
            (if inside { lane - 1 } else { lane }) as u64,
            "lane {lane}"
        );
        assert_eq!(word >> 16 & 0xffff, (lane / 8 * 8 + 3) as u64);
        assert_eq!(word >> 32, u64::from(inside));
    }
}

#[test]
fn votes_matches_and_reductions_of_a_part_of_the_warp() {
    let out = results(
        "setp.lt.u32 %p1, %r0, 10; @!%p1 bra DONE;
         setp.lt.u32 %p2, %r0, 4;
         vote.sync.ballot.b32 %r1, %p2, 0x3ff;
         vote.sync.all.pred %p3, %p2, 0x3ff;
         vote.sync.any.pred %p4, %p2, 0x3ff;
         and.b32 %r2, %r0, 1;
         match.any.sync.b32 %r3, %r2, 0x3ff;
         redux.sync.add.u32 %r4, %r0, 0x3ff;
         activemask.b32 %r5;
         selp.u32 %r6, 1, 0, %p3; selp.u32 %r7, 2, 0, %p4; or.b32 %r6, %r6, %r7;
         mul.wide.u32 %rd2, %r0, 48; add.u64 %rd3, %rd0, %rd2;
         st.global.v2.u32 [%rd3+16], {%r1, %r3}; st.global.v2.u32 [%rd3+24], {%r4, %r5};
         st.global.u32 [%rd3], %r6;
         DONE:",
        32,
    );
    for lane in 0..10 {
        let row = &out[lane * 6..lane * 6 + 4];
        let same = if lane % 2 == 0 { 0x155 } else { 0x2aa };
        assert_eq!(row, [2, 0, 0xf | same << 32, 45 | 0x3ff << 32], "lane {lane}");
    }
}

#[test]
fn atomics_give_the_old_value_and_are_not_lost() {
    let mut out = vec![0u64; 40];
    let memory = Slices::of(&mut [&mut out]);
    let kernel = snippet(
        "atom.global.add.u32 %r1, [%rd0], 1;
         red.global.max.s32 [%rd0+4], %r0;
         atom.global.inc.u32 %r2, [%rd0+8], 9;
         red.global.or.b32 [%rd0+12], 6;
         red.global.add.f32 [%rd0+16], 0f3F000000;
         atom.global.cas.b32 %r3, [%rd0+20], 0, 77;
         atom.global.exch.b64 %rd1, [%rd0+24], 5;
         red.global.min.u64 [%rd0+32], 3;
         red.global.and.b32 [%rd0+40], 0;",
    );
    start(&kernel, 2, 50, &[memory.address(0)], &memory, 1000).unwrap();
    assert_eq!(out[0], 100 | 49 << 32);
    assert_eq!(out[1], 6 << 32);
    assert_eq!(out[2], u64::from(50f32.to_bits()) | 77 << 32);
    assert_eq!(out[3], 5);
    assert_eq!(out[4], 0);
}

#[test]
fn integer_arithmetic() {
    assert_eq!(value32("mov.u32 %r2, 7; sub.s32 %r1, %r2, 9;") as i32, -2);
    assert_eq!(value("mov.s32 %r2, -3; mul.wide.s32 %rd1, %r2, 5;") as i64, -15);
    assert_eq!(
        value("mov.u32 %r2, 0xffffffff; mul.wide.u32 %rd1, %r2, %r2;"),
        0xffff_fffe_0000_0001
    );
    assert_eq!(value32("mov.u32 %r2, 0x80000000; mul.hi.u32 %r1, %r2, 6;"), 3);
    assert_eq!(value32("mov.s32 %r2, -1; mul.hi.s32 %r1, %r2, 6;") as i32, -1);
    assert_eq!(
        value("mov.u64 %rd2, -1; mul.hi.u64 %rd1, %rd2, %rd2;"),
        u64::MAX - 1
    );
    assert_eq!(value32("mov.s32 %r2, -7; div.s32 %r1, %r2, 2;") as i32, -3);
    assert_eq!(value32("mov.s32 %r2, -7; rem.s32 %r1, %r2, 2;") as i32, -1);
    assert_eq!(value32("mov.u32 %r2, 5; div.u32 %r1, %r2, 0;"), u32::MAX);
    assert_eq!(value32("mov.s32 %r2, -8; shr.s32 %r1, %r2, 40;") as i32, -1);
    assert_eq!(value32("mov.u32 %r2, 0x80000000; shr.u32 %r1, %r2, 32;"), 0);
    assert_eq!(value32("mov.u32 %r2, 1; shl.b32 %r1, %r2, 33;"), 0);
    assert_eq!(value32("mov.s32 %r2, -5; abs.s32 %r1, %r2;"), 5);
    assert_eq!(value32("mov.s32 %r2, -5; min.s32 %r1, %r2, 3;") as i32, -5);
    assert_eq!(value32("mov.s32 %r2, -5; min.u32 %r1, %r2, 3;"), 3);
    assert_eq!(value32("mov.u32 %r2, 0xf0; bfe.u32 %r1, %r2, 4, 4;"), 15);
    assert_eq!(value32("mov.u32 %r2, 0xf0; bfe.s32 %r1, %r2, 4, 4;") as i32, -1);
    assert_eq!(
        value32("mov.u32 %r2, 0xff; mov.u32 %r3, 5; bfi.b32 %r1, %r3, %r2, 8, 4;"),
        0x5ff
    );
    assert_eq!(
        value32("mov.u32 %r2, 0x44332211; prmt.b32 %r1, %r2, 0, 0x0123;"),
        0x1122_3344
    );
    assert_eq!(
        value32("mov.u32 %r2, 0xc; mov.u32 %r3, 0xa; lop3.b32 %r1, %r2, %r3, 0, 0x3c;"),
        6
    );
    assert_eq!(
        value32("mov.u32 %r2, 1; shf.l.wrap.b32 %r1, 0x80000000, %r2, 1;"),
        3
    );
    assert_eq!(value32("mov.u32 %r2, 256; clz.b32 %r1, %r2;"), 23);
    assert_eq!(value32("mov.u32 %r2, 255; popc.b32 %r1, %r2;"), 8);
    assert_eq!(value32("mov.u32 %r2, 256; bfind.u32 %r1, %r2;"), 8);
    assert_eq!(value32("mov.u32 %r2, 1; brev.b32 %r1, %r2;"), 1 << 31);
    // A carry travels through two words.
    assert_eq!(
        value(
            "mov.u32 %r2, 0xffffffff; add.cc.u32 %r3, %r2, 1; addc.u32 %r4, 6, 0;
             mov.b64 %rd1, {%r3, %r4};"
        ),
        7 << 32
    );
}

#[test]
fn floating_point_and_conversions() {
    let f32_of = |body: &str| f32::from_bits(value32(&format!("{body} mov.b32 %r1, %f1;")));
    assert_eq!(
        f32_of("mov.f32 %f2, 0f40000000; fma.rn.f32 %f1, %f2, %f2, %f2;"),
        6.0
    );
    assert_eq!(
        f32_of("mov.f32 %f2, 0f3F800000; div.rn.f32 %f1, %f2, 0f40800000;"),
        0.25
    );
    assert_eq!(f32_of("mov.f32 %f2, 0f41100000; sqrt.rn.f32 %f1, %f2;"), 3.0);
    assert_eq!(
        f32_of("mov.f32 %f2, 0f7FC00000; max.f32 %f1, %f2, 0f3F800000;"),
        1.0
    );
    assert_eq!(f32_of("mov.f32 %f2, 0f40000000; add.sat.f32 %f1, %f2, %f2;"), 1.0);
    assert_eq!(f32_of("mov.u32 %r2, 7; cvt.rn.f32.u32 %f1, %r2;"), 7.0);
    assert_eq!(f32_of("mov.u16 %h1, 0x3c00; cvt.f32.f16 %f1, %h1;"), 1.0);
    assert_eq!(
        f64::from_bits(value(
            "mov.f64 %d1, 0d3FF8000000000000; add.f64 %d1, %d1, 1.5; mov.b64 %rd1, %d1;"
        )),
        3.0
    );
    assert_eq!(
        value32("mov.f32 %f1, 0fC0200000; cvt.rzi.s32.f32 %r1, %f1;") as i32,
        -2
    );
    assert_eq!(
        value32("mov.f32 %f1, 0fC0200000; cvt.rmi.s32.f32 %r1, %f1;") as i32,
        -3
    );
    assert_eq!(value("mov.s32 %r2, -4; cvt.s64.s32 %rd1, %r2;") as i64, -4);
    assert_eq!(value32("mov.u32 %r2, 0x1ff; cvt.s32.s8 %r1, %r2;") as i32, -1);
    assert_eq!(value32("mov.s32 %r2, 300; cvt.sat.u8.s32 %r1, %r2;"), 255);
    // Comparisons with NaN: ordered ones fail, unordered ones hold.
    assert_eq!(
        value32(
            "mov.f32 %f1, 0f7FC00000; setp.lt.f32 %p1, %f1, %f1; setp.geu.f32 %p2, %f1, %f1;
             setp.ne.and.f32 %p3|%p4, %f1, %f1, %p2;
             selp.u32 %r1, 1, 0, %p1; selp.u32 %r2, 2, 0, %p2; selp.u32 %r3, 4, 0, %p4;
             or.b32 %r1, %r1, %r2; or.b32 %r1, %r1, %r3;"
        ),
        6
    );
}

#[test]
fn a_statement_of_several_instructions_may_set_its_own_guard() {
    let body = |first: u32| {
        format!(
            "mov.u32 %r2, {first}; setp.eq.u32 %p1, %r2, 1; setp.eq.u32 %p2, 0, 0; mov.u32 %r1, 0;
             @%p1 setp.ne.and.u32 %p1|%p2, %r2, 1, %p2;
             selp.u32 %r1, 1, 0, %p1; selp.u32 %r3, 2, 0, %p2; or.b32 %r1, %r1, %r3;"
        )
    };
    assert_eq!(value32(&body(1)), 2);
    assert_eq!(value32(&body(0)), 2);
}

#[test]
fn device_functions_are_inlined() {
    let text = ".version 8.0\n.target sm_90\n.address_size 64
        .func (.param .b32 result) square(.param .b32 a) {
            .reg .b32 %r<3>; .reg .pred %p<2>;
            ld.param.u32 %r1, [a]; setp.gt.u32 %p1, %r1, 100; @%p1 bra BIG;
            mul.lo.u32 %r2, %r1, %r1; st.param.b32 [result], %r2; ret;
            BIG: st.param.b32 [result], 0; ret;
        }
        .func (.reg .b32 r) twice(.reg .b32 a) { add.u32 r, a, a; ret; }
        .entry k(.param .u64 out) {
            .reg .b32 %r<4>; .reg .b64 %rd<2>; .reg .pred %p<2>;
            ld.param.u64 %rd1, [out];
            { .param .b32 p0; .param .b32 q0;
              st.param.b32 [p0], 7; call.uni (q0), square, (p0); ld.param.b32 %r1, [q0]; }
            { .param .b32 p0; .param .b32 q0;
              st.param.b32 [p0], 101; call.uni (q0), square, (p0); ld.param.b32 %r2, [q0]; }
            call (%r3), twice, (%r1);
            setp.eq.u32 %p1, %r2, 5;
            @%p1 call (%r3), twice, (%r3);
            st.global.u32 [%rd1], %r3; st.global.u32 [%rd1+4], %r2; ret;
        }";
    let mut out = vec![9u64];
    let memory = Slices::of(&mut [&mut out]);
    start(&kernel_of(text, "k"), 1, 1, &[memory.address(0)], &memory, 10).unwrap();
    assert_eq!(out[0], 98);
}

#[test]
fn generic_addresses_reach_shared_and_local_memory() {
    let text = ".version 8.0\n.target sm_90\n.address_size 64
        .entry k(.param .u64 out) {
            .local .align 8 .b8 depot[16]; .shared .align 4 .b8 tile[128];
            .reg .b64 %SP, %SPL; .reg .b32 %r<6>; .reg .b64 %rd<6>; .reg .pred %p<3>;
            mov.u64 %SPL, depot; cvta.local.u64 %SP, %SPL;
            ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
            st.u32 [%SP+4], %r1; st.local.u32 [%SPL+8], 5;
            mov.u64 %rd2, tile; cvta.shared.u64 %rd3, %rd2;
            mul.wide.u32 %rd4, %r1, 4; add.u64 %rd3, %rd3, %rd4; add.u64 %rd2, %rd2, %rd4;
            st.u32 [%rd3], %r1; bar.sync 0;
            xor.b32 %r2, %r1, 1; shl.b32 %r2, %r2, 2; mov.u32 %r3, tile; add.u32 %r3, %r3, %r2;
            ld.shared.u32 %r4, [%r3]; ld.local.u32 %r5, [%SPL+4];
            isspacep.shared %p1, %rd3; isspacep.global %p2, %rd3;
            @!%p1 trap; @%p2 trap;
            mad.lo.u32 %r4, %r4, 100, %r5;
            add.u64 %rd5, %rd1, %rd4; st.global.u32 [%rd5], %r4; ret;
        }";
    let mut out = vec![0u64; 16];
    let memory = Slices::of(&mut [&mut out]);
    start(&kernel_of(text, "k"), 1, 32, &[memory.address(0)], &memory, 100).unwrap();
    for thread in 0..32u64 {
        let word = out[thread as usize / 2] >> (thread % 2 * 32) & 0xffff_ffff;
        assert_eq!(word, (thread ^ 1) * 100 + thread);
    }
}

#[test]
fn threads_that_wait_for_each_other_in_a_loop_all_get_on() {
    let out = results(
        "setp.ne.u32 %p1, %r0, 0; @%p1 bra SET;
         WAIT: ld.volatile.global.u32 %r1, [%rd0+8]; setp.eq.u32 %p2, %r1, 0; @%p2 bra WAIT;
         st.global.u32 [%rd0], %r1; bra DONE;
         SET: st.volatile.global.u32 [%rd0+8], 3; DONE:",
        2,
    );
    assert_eq!(out[0], 3);
}

#[test]
fn named_barriers_count_arrivals_and_reduce() {
    // Warp 0 arrives, warp 1 waits for both; then all 64 vote at another barrier.
    let out = results(
        "setp.lt.u32 %p1, %r0, 32; @%p1 bra ARRIVE;
         bar.sync 2, 64; ld.volatile.global.u64 %rd2, [%rd0+8]; st.global.u64 [%rd0], %rd2; bra VOTE;
         ARRIVE: st.global.u64 [%rd0+8], 5; bar.arrive 2, 64;
         VOTE: setp.lt.u32 %p2, %r0, 40;
         bar.red.popc.u32 %r1, 1, %p2; bar.red.and.pred %p3, 1, %p2; bar.red.or.pred %p4, 1, 64, !%p2;
         selp.u32 %r2, 1, 0, %p3; selp.u32 %r3, 2, 0, %p4; or.b32 %r2, %r2, %r3;
         setp.ne.u32 %p5, %r0, 63; @%p5 bra END; st.global.v2.u32 [%rd0+16], {%r1, %r2}; END:",
        64,
    );
    assert_eq!(out[..3], [5, 5, 40 | 2 << 32]);
}

#[test]
fn blocks_that_wait_for_each_other_all_get_on() {
    let mut out = vec![0u64; 2];
    let memory = Slices::of(&mut [&mut out]);
    // A barrier of the whole grid, and then the last one counts.
    let kernel = snippet(
        "atom.global.add.u32 %r1, [%rd0], 1;
         WAIT: ld.volatile.global.u32 %r2, [%rd0]; setp.lt.u32 %p1, %r2, 24; @%p1 bra WAIT;
         red.global.add.u32 [%rd0+8], 1;",
    );
    start(&kernel, 12, 2, &[memory.address(0)], &memory, 1_000_000).unwrap();
    assert_eq!((out[0], out[1]), (24, 24));
}

#[test]
fn a_spin_on_the_timer_ends_and_passes_safe_points() {
    let mut out = vec![0u64; 2];
    let memory = Slices::of(&mut [&mut out]);
    let kernel = kernel("spin_ns");
    start(&kernel, 1, 1, &[memory.address(0), 2_000_000], &memory, u64::MAX).unwrap();
    assert!(out[0] >= 2_000_000);
    // With no safe point to pass it does not get far.
    let result = start(&kernel, 1, 1, &[memory.address(0), u64::MAX / 2], &memory, 3);
    assert_eq!(result, Err(Stop::Aborted));
}

#[test]
fn a_barrier_that_never_completes_can_be_aborted() {
    let mut out = vec![0u64; 2];
    let memory = Slices::of(&mut [&mut out]);
    let kernel = snippet("bar.sync 1, 64;");
    assert_eq!(
        start(&kernel, 1, 32, &[memory.address(0)], &memory, 3),
        Err(Stop::Aborted)
    );
}

#[test]
fn faults_name_address_and_line() {
    let mut out = vec![0u64; 2];
    let memory = Slices::of(&mut [&mut out]);
    let address = memory.address(0);
    let fault = |body: &str| match start(&snippet(body), 1, 1, &[address], &memory, 10) {
        Err(Stop::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let behind = fault("st.global.u32 [%rd0+16], 1;");
    assert_eq!(
        (behind.kind, behind.address, behind.line),
        (FaultKind::IllegalAddress, address + 16, 7)
    );
    assert_eq!(
        fault("ld.global.u64 %rd1, [%rd0+12];").kind,
        FaultKind::MisalignedAddress
    );
    assert_eq!(
        fault("ld.global.v2.u64 {%rd1, %rd2}, [%rd0+16];").kind,
        FaultKind::IllegalAddress
    );
    assert_eq!(
        fault("mov.u64 %rd1, 0; ld.u32 %r1, [%rd1];").kind,
        FaultKind::IllegalAddress
    );
    assert_eq!(
        fault("mov.u64 %rd1, -8; ld.u64 %rd2, [%rd1];").kind,
        FaultKind::IllegalAddress
    );
    assert_eq!(
        fault("ld.shared.u32 %r1, [%rd0];").kind,
        FaultKind::IllegalAddress
    );
    assert_eq!(
        fault("atom.global.add.u32 %r1, [%rd0+16], 1;").kind,
        FaultKind::IllegalAddress
    );
    assert_eq!(fault("trap;").kind, FaultKind::Trap);
}

#[test]
fn unknown_instructions_and_names_are_refused_with_their_line() {
    let refused = |body: &str| {
        let text = format!(
            ".version 8.0\n.target sm_90\n.address_size 64\n.entry k() {{ .reg .b32 %r<4>; .reg .f32 %f<3>;\n{body}\nret; }}"
        );
        let module = parse(&text).unwrap();
        lower(&module, &module.functions[0], &Symbols::new()).unwrap_err()
    };
    for body in [
        "wgmma.fence.sync.aligned;",
        "ex2.rz.f32 %f1, %f2;",
        "add.rz.f32 %f1, %f2;",
        "cp.async.wait_all;",
        "bra NOWHERE;",
        "mov.u32 %r1, nothing;",
        "add.u32 %r1, %r2;",
        "ld.global.v8.u32 %r1, [%r2];",
        "call missing;",
    ] {
        assert_eq!(refused(body).line, 5, "{body}");
    }
}

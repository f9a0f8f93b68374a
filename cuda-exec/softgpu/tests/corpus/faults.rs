//! What a kernel may not do: each loses its process, so each is done in one of its own.

use super::*;
use softgpu_cuda::driver::context::cuCtxSynchronize;

/// Runs `source`'s kernel `name` as `compiler` made it, and expects `code`.
fn expect(compiler: &str, source: &str, name: &str, args: &[&dyn Arg], code: i32) {
    let _ctx = Ctx::new();
    let module = load(&ptx(compiler, source));
    let kernel = function(module, &CString::new(name).unwrap());
    launch(kernel, [1; 3], [1; 3], 0, 0, args);
    assert_eq!(cuCtxSynchronize(), code, "{name} by {compiler}");
}

#[test]
fn each_gives_its_error() {
    const CASES: [&str; 7] = ["null", "unaligned", "freed", "trap", "stack", "shared", "assert"];
    let Some(role) = role() else {
        for compiler in COMPILERS {
            for case in CASES {
                let directory = tempfile::TempDir::new().unwrap();
                let role = format!("{compiler}/{case}");
                let mut command = child("faults::each_gives_its_error", &role);
                succeed(command.env("VGPU_SOFTGPU_DIR", directory.path()));
            }
        }
        return;
    };
    let (compiler, case) = role.split_once('/').unwrap();
    let ctx = Ctx::new();
    let out = zeros(64);
    match case {
        "null" => expect(compiler, "faults", "store_at", &[&0u64, &1i32], 700),
        "unaligned" => expect(compiler, "faults", "store_at", &[&(out + 2), &1i32], 716),
        "freed" => {
            let gone = alloc(1 << 20);
            ok(softgpu_cuda::driver::memory::cuMemFree_v2(gone));
            // What the module needs may take its beginning.
            expect(compiler, "faults", "store_at", &[&(gone + (1 << 19)), &1i32], 700);
        }
        "trap" => expect(compiler, "faults", "trap_if", &[&1i32], 719),
        "stack" => expect(compiler, "faults", "too_deep", &[&1_000_000i32, &out], 714),
        "shared" => expect(compiler, "faults", "shared_at", &[&20_000_000i32, &out], 700),
        "assert" => expect(compiler, "assertions", "check_that", &[&0i32, &out], 710),
        other => panic!("{other}"),
    }
    // The process is lost, not only the context.
    std::mem::forget(ctx);
    assert_ne!(softgpu_cuda::driver::memory::cuMemFree_v2(out), 0);
}

#[test]
fn what_is_allowed_gives_none() {
    each("faults", "store_at", |kernel| {
        let out = zeros(8);
        kernel.run(1, 1, 0, &[&(out + 4), &-5i32]);
        assert_eq!(download::<i32>(out, 2), [0, -5]);
    });
    each("faults", "trap_if", |kernel| kernel.run(1, 1, 0, &[&0i32]));
    each("faults", "too_deep", |kernel| {
        let out = zeros(8);
        kernel.run(1, 1, 0, &[&40i32, &out]);
        assert_eq!(download::<i32>(out, 1), [(0..=40).sum::<i32>()]);
    });
    each("faults", "shared_at", |kernel| {
        let out = zeros(4);
        kernel.run(1, 4, 0, &[&3i32, &out]);
        assert_eq!(download::<i32>(out, 1), [7]);
    });
    each("assertions", "check_that", |kernel| {
        let out = zeros(4);
        kernel.run(1, 1, 0, &[&1i32, &out]);
        assert_eq!(download::<i32>(out, 1), [1]);
    });
}

//! Pools and virtual memory, as a guest asks for them: what they count for, and what their addresses may be used for.
mod support;

use support::program::*;
use support::*;
use vgpu_protocol::calls::*;
use vgpu_protocol::limits::{ARENA_LEN, WINDOW_LEN, WORDS_MAX};
use vgpu_protocol::result;
use vgpu_protocol::structs::{Access, Location};
use vgpu_protocol::words::Words;
use vgpu_protocol::words::handle::STREAM_LEGACY;
use zerocopy::IntoBytes;

const GRANULE: u64 = 2 << 20;
const POOL: u32 = 3;

fn pool(exec: &mut Exec) {
    let arguments = cuMemPoolCreate::In {
        device: 0,
        most: 0,
        usage: 0,
        pool: POOL,
    };
    exec.get::<cuMemPoolCreate::Call>(arguments, &[]).unwrap();
}

fn from_pool(exec: &mut Exec, bytes: u64) -> Result<u64, i32> {
    let arguments = cuMemAllocFromPoolAsync::In {
        bytes,
        pool: POOL,
        stream: STREAM_LEGACY,
    };
    let allocated = exec.get::<cuMemAllocFromPoolAsync::Call>(arguments, &[]);
    allocated.map(|(out, _)| out.pointer)
}

fn create(exec: &mut Exec, bytes: u64, allocation: u32) -> Result<(), i32> {
    let arguments = cuMemCreate::In {
        bytes,
        device: 0,
        compression: 0,
        rdma: 0,
        usage: 0,
        allocation,
    };
    exec.get::<cuMemCreate::Call>(arguments, &[]).map(drop)
}

/// Makes a call that need not be answered, and waits for its answer.
fn answered<C: Wire>(exec: &mut Exec, arguments: C::In) -> Result<(), i32> {
    let mut words = [0; WORDS_MAX];
    arguments.put(&mut words);
    let position = exec.put(0, C::OP, true, &words[..C::In::LEN], &[]);
    match exec.answer(0, position).0 {
        result::SUCCESS => Ok(()),
        code => Err(code),
    }
}

fn fill(exec: &mut Exec, to: u64, count: u64) -> Result<(), i32> {
    let arguments = cuMemsetD8Async::In {
        to,
        value: 1,
        count,
        stream: STREAM_LEGACY,
    };
    answered::<cuMemsetD8Async::Call>(exec, arguments)
}

#[test]
fn pools_count_for_what_they_reserve_and_never_exceed_the_quota() {
    let page = SharedPage::new();
    let mut exec = Exec::start();
    make_ready(&mut exec, Some((&page, 0)));
    let before = page.get().used(0);
    let used = || page.get().used(0) - before;
    page.get().set_quota(Some(before + 8 * GRANULE));
    pool(&mut exec);
    let first = from_pool(&mut exec, 3 * GRANULE).unwrap();
    let second = from_pool(&mut exec, 4 * GRANULE).unwrap();
    assert_eq!(used(), 7 * GRANULE);
    assert_eq!(from_pool(&mut exec, 2 * GRANULE), Err(result::OUT_OF_MEMORY));
    assert_eq!(create(&mut exec, 2 * GRANULE, 1), Err(result::OUT_OF_MEMORY));
    fill(&mut exec, first, 3 * GRANULE).unwrap();
    // What uses it is submitted before it is freed, and nothing after.
    let free = |pointer| cuMemFreeAsync::In {
        pointer,
        stream: STREAM_LEGACY,
    };
    answered::<cuMemFreeAsync::Call>(&mut exec, free(first)).unwrap();
    assert_eq!(fill(&mut exec, first, 1), Err(result::INVALID_VALUE));
    let again = answered::<cuMemFreeAsync::Call>(&mut exec, free(first));
    assert_eq!(again, Err(result::INVALID_VALUE));
    wait_until("what was freed given back", || used() == 4 * GRANULE);
    // A pool that is destroyed counts until the last of it is free.
    exec.get::<cuMemPoolDestroy::Call>(cuMemPoolDestroy::In { pool: POOL }, &[])
        .unwrap();
    assert_eq!(used(), 4 * GRANULE);
    fill(&mut exec, second, 4 * GRANULE).unwrap();
    answered::<cuMemFreeAsync::Call>(&mut exec, free(second)).unwrap();
    wait_until("the pool gone", || used() == 0);
}

#[test]
fn virtual_memory_counts_while_there_is_a_handle_or_a_mapping() {
    let page = SharedPage::new();
    let mut exec = Exec::start();
    make_ready(&mut exec, Some((&page, 0)));
    let before = page.get().used(0);
    let used = || page.get().used(0) - before;
    let arguments = cuMemAddressReserve::In {
        bytes: 4 * GRANULE,
        alignment: 0,
        // Where it must not be.
        wanted: 0x5000_0000_0000,
    };
    let (out, _) = exec.get::<cuMemAddressReserve::Call>(arguments, &[]).unwrap();
    let at = out.pointer;
    assert!(
        at >= WINDOW + ARENA_LEN && at + 4 * GRANULE <= WINDOW + WINDOW_LEN,
        "{at:#x}"
    );
    create(&mut exec, 2 * GRANULE, 1).unwrap();
    assert_eq!(used(), 2 * GRANULE);
    let map = cuMemMap::In {
        pointer: at,
        bytes: 2 * GRANULE,
        offset: 0,
        allocation: 1,
    };
    exec.get::<cuMemMap::Call>(map, &[]).unwrap();
    assert_eq!(
        fill(&mut exec, at, 1),
        Err(result::INVALID_VALUE),
        "nobody may access it"
    );
    let access = Access {
        location: Location {
            kind: Location::DEVICE,
            id: 0,
        },
        flags: 3,
    };
    let range = cuMemSetAccess::In {
        pointer: at,
        bytes: 2 * GRANULE,
    };
    exec.get::<cuMemSetAccess::Call>(range, access.as_bytes())
        .unwrap();
    fill(&mut exec, at, 2 * GRANULE).unwrap();
    assert_eq!(fill(&mut exec, at, 2 * GRANULE + 1), Err(result::INVALID_VALUE));
    exec.get::<cuMemRelease::Call>(cuMemRelease::In { allocation: 1 }, &[])
        .unwrap();
    assert_eq!(used(), 2 * GRANULE, "it is mapped still");
    let range = cuMemUnmap::In {
        pointer: at,
        bytes: 2 * GRANULE,
    };
    exec.get::<cuMemUnmap::Call>(range, &[]).unwrap();
    assert_eq!(used(), 0);
    let range = cuMemAddressFree::In {
        pointer: at,
        bytes: 4 * GRANULE,
    };
    exec.get::<cuMemAddressFree::Call>(range, &[]).unwrap();
}

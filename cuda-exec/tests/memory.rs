//! Pools and virtual memory, as a guest asks for them: what they count for, and what their addresses may be used for.
mod support;

use std::os::fd::OwnedFd;
use support::program::*;
use support::shares::{Table, Token};
use support::*;
use vgpu_protocol::calls::*;
use vgpu_protocol::host::{SHARE_LEN, ShareKind, ShareRequest};
use vgpu_protocol::limits::{ARENA_LEN, WINDOW_LEN, WORDS_MAX};
use vgpu_protocol::result;
use vgpu_protocol::structs::{Access, HANDLE_TYPE_FILE, Location};
use vgpu_protocol::words::Words;
use vgpu_protocol::words::handle::STREAM_LEGACY;
use zerocopy::IntoBytes;

const GRANULE: u64 = 2 << 20;
const POOL: u32 = 3;

fn pool(exec: &mut Exec) {
    pool_as(exec, 0);
}

fn pool_as(exec: &mut Exec, handle_types: u32) {
    let arguments = cuMemPoolCreate::In {
        device: 0,
        most: 0,
        usage: 0,
        handle_types,
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
    create_as(exec, bytes, 0, allocation)
}

fn create_as(exec: &mut Exec, bytes: u64, handle_types: u32, allocation: u32) -> Result<(), i32> {
    let arguments = cuMemCreate::In {
        bytes,
        device: 0,
        compression: 0,
        rdma: 0,
        usage: 0,
        handle_types,
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

#[test]
fn exported_memory_counts_in_each_process_as_long_as_it_has_it() {
    let (page, mut one, mut two) = two_of_a_vm();
    let mut table = Table::default();
    let before = page.get().used(0);
    let used = || page.get().used(0) - before;
    page.get().set_quota(Some(before + 6 * GRANULE));
    create_as(&mut one, 4 * GRANULE, HANDLE_TYPE_FILE, 1).unwrap();
    let export = cuMemExportToShareableHandle::In { allocation: 1 };
    let published =
        table.get::<cuMemExportToShareableHandle::Call>(&mut one, export, &[], ShareKind::Publish);
    let token = published.unwrap().1;
    // Once more; it is in the table.
    one.get::<cuMemExportToShareableHandle::Call>(export, &[])
        .unwrap();
    let import = |table: &mut Table, exec: &mut Exec, allocation| {
        let arguments = cuMemImportFromShareableHandle::In { allocation };
        let imported =
            table.get::<cuMemImportFromShareableHandle::Call>(exec, arguments, &token, ShareKind::Find);
        imported.map(drop)
    };
    // What does not fit is let go of again.
    assert_eq!(import(&mut table, &mut two, 1), Err(result::OUT_OF_MEMORY));
    assert_eq!(used(), 4 * GRANULE);
    page.get().set_quota(Some(before + 8 * GRANULE));
    import(&mut table, &mut two, 1).unwrap();
    assert_eq!(used(), 8 * GRANULE);
    assert_eq!(create(&mut one, GRANULE, 2), Err(result::OUT_OF_MEMORY));
    // The one that made it lets go of it: its descriptor is gone before it counts no more, and it still counts for the other.
    let position = one.call::<cuMemRelease::Call>(cuMemRelease::In { allocation: 1 }, &[]);
    readable(&one.shares);
    assert_eq!(used(), 8 * GRANULE);
    assert_eq!(table.answer(&one.shares), (ShareKind::Withdraw, token));
    assert_eq!(one.answer(0, position).0, result::SUCCESS);
    assert_eq!(used(), 4 * GRANULE);
    assert_eq!(import(&mut table, &mut two, 2), Err(result::INVALID_VALUE));
    two.get::<cuMemRelease::Call>(cuMemRelease::In { allocation: 1 }, &[])
        .unwrap();
    assert_eq!(used(), 0);
}

#[test]
fn a_pool_that_was_imported_counts_for_what_of_it_was() {
    let (page, mut one, mut two) = two_of_a_vm();
    let mut table = Table::default();
    let before = page.get().used(0);
    let used = || page.get().used(0) - before;
    pool_as(&mut one, HANDLE_TYPE_FILE);
    let pointer = from_pool(&mut one, 3 * GRANULE).unwrap();
    from_pool(&mut one, GRANULE).unwrap();
    // A pool is exported before its pointers are.
    let export = cuMemPoolExportPointer::In { pointer };
    let early = one.get::<cuMemPoolExportPointer::Call>(export, &[]);
    assert_eq!(early.map(drop), Err(result::INVALID_VALUE));
    let whole = cuMemPoolExportToShareableHandle::In { pool: POOL };
    let published =
        table.get::<cuMemPoolExportToShareableHandle::Call>(&mut one, whole, &[], ShareKind::Publish);
    let pool_token = published.unwrap().1;
    let published = table.get::<cuMemPoolExportPointer::Call>(&mut one, export, &[], ShareKind::Publish);
    let token = published.unwrap().1;
    let import = cuMemPoolImportFromShareableHandle::In { pool: 7 };
    let imported =
        table.get::<cuMemPoolImportFromShareableHandle::Call>(&mut two, import, &pool_token, ShareKind::Find);
    imported.unwrap();
    assert_eq!(used(), 4 * GRANULE);
    page.get().set_quota(Some(before + 6 * GRANULE));
    let import = cuMemPoolImportPointer::In { pool: 7 };
    let get = |table: &mut Table, two: &mut Exec| {
        let got = table.get::<cuMemPoolImportPointer::Call>(two, import, &token, ShareKind::Find);
        got.map(|(out, _)| out.pointer)
    };
    assert_eq!(get(&mut table, &mut two), Err(result::OUT_OF_MEMORY));
    page.get().set_quota(Some(before + 7 * GRANULE));
    let theirs = get(&mut table, &mut two).unwrap();
    assert_eq!(used(), 7 * GRANULE);
    fill(&mut two, theirs, 3 * GRANULE).unwrap();
    assert_eq!(
        fill(&mut two, theirs, 3 * GRANULE + 1),
        Err(result::INVALID_VALUE)
    );
    // Its own process lets go of it: it counts for the other one, which the pool that it was of goes on counting for.
    let free = cuMemFree::In { pointer };
    table
        .get::<cuMemFree::Call>(&mut one, free, &[], ShareKind::Withdraw)
        .unwrap();
    wait_until("what was freed given back", || used() == 4 * GRANULE);
    let destroy = cuMemPoolDestroy::In { pool: 7 };
    let early = two.get::<cuMemPoolDestroy::Call>(destroy, &[]);
    assert_eq!(early.map(drop), Err(result::INVALID_VALUE));
    fill(&mut two, theirs, GRANULE).unwrap();
    assert_eq!(used(), 4 * GRANULE);
    let free = cuMemFree::In { pointer: theirs };
    two.get::<cuMemFree::Call>(free, &[]).unwrap();
    two.get::<cuMemPoolDestroy::Call>(destroy, &[]).unwrap();
    wait_until("the pool gone", || used() == GRANULE);
}

/// What another executor hands over that was taken over: no memory, or no file at all.
#[test]
fn a_descriptor_that_is_no_memory_is_refused() {
    const TOKEN: Token = [9; SHARE_LEN];
    let mut exec = Exec::start();
    make_ready(&mut exec, None);
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    for (what, file, code) in [
        (3, Some(null()), result::UNKNOWN),
        (3, None, result::UNKNOWN),
        (4, Some(null()), result::UNKNOWN),
        (4, None, result::UNKNOWN),
    ] {
        let request = ShareRequest {
            kind: ShareKind::Publish as u32,
            what,
            len: u64::MAX,
            bytes: [0; SHARE_LEN],
            of: [0; SHARE_LEN],
        };
        let mut table = Table::default();
        table.published.push((TOKEN, request, file));
        let got = if what == 3 {
            let arguments = cuMemImportFromShareableHandle::In { allocation: 1 };
            let got = table.get::<cuMemImportFromShareableHandle::Call>(
                &mut exec,
                arguments,
                &TOKEN,
                ShareKind::Find,
            );
            got.map(drop)
        } else {
            let arguments = cuMemPoolImportFromShareableHandle::In { pool: 5 };
            let got = table.get::<cuMemPoolImportFromShareableHandle::Call>(
                &mut exec,
                arguments,
                &TOKEN,
                ShareKind::Find,
            );
            got.map(drop)
        };
        assert_eq!(got, Err(code));
    }
}

//! A guest process that does nothing wrong, beside those that do: it must never notice.
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Result, ensure};
use vgpu_protocol::area;
use vgpu_protocol::ring::op;

use super::cases::{DEVICE_LEN, Fixture, STREAM};
use super::{Outcome, PINNED_AT, Vm, WINDOW, row};

/// Runs kernels, fills and copies in a session of its own, and checks every result, until told to end: how many rounds
/// it made.
pub fn work(vm: &Vm, end: &AtomicBool) -> Result<u64> {
    const SLOT: u64 = 77;
    let (counter, copied) = (PINNED_AT, PINNED_AT + 4096);
    let mut session = vm.open()?;
    let fixture = Fixture::make(&mut session)?;
    let function = fixture.function(&mut session, 2, "bump")?;
    let mut rounds = 0;
    while !end.load(SeqCst) || rounds < 3 {
        rounds += 1;
        let launch = [function, 1, 1, 1, 128, 1, 1, 0, STREAM];
        let parameter = (WINDOW + counter).to_le_bytes();
        session.put(0, row("cuLaunchKernel").op, false, &launch, &parameter)?;
        let value = rounds as u32 ^ 0x5a5a_0000;
        let fill = [fixture.device, u64::from(value), DEVICE_LEN / 4, STREAM];
        session.put(0, row("cuMemsetD32Async").op, false, &fill, &[])?;
        let copy = [WINDOW + copied, fixture.device, DEVICE_LEN, STREAM];
        session.put(0, row("cuMemcpyDtoHAsync").op, false, &copy, &[])?;
        session.put(0, op::FENCE, false, &[STREAM, SLOT, rounds], &[])?;
        session.until("a fence", || {
            session.u64(area::fence(SLOT as u32)).load(SeqCst) == rounds || session.status() != 0
        })?;
        ensure!(
            session.status() == 0,
            "an honest session ended with {}",
            session.status()
        );
        let count = session.u32(counter).load(SeqCst);
        ensure!(
            u64::from(count) == 128 * rounds,
            "a kernel counted {count} in round {rounds}"
        );
        let bytes = session.read(copied, DEVICE_LEN as usize);
        ensure!(
            bytes.chunks_exact(4).all(|word| word == value.to_le_bytes()),
            "a copy of round {rounds} is wrong"
        );
        ensure!(session.settle()? == Outcome::Done, "an honest call failed");
    }
    session.close()?;
    Ok(rounds)
}

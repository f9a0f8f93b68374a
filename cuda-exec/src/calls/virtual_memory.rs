//! Virtual memory: reserved addresses, memory that is mapped to them, and who may access it.
//!
//! Addresses must lie where the guest left room for the device's memory. libcuda takes them where it likes, so it is asked again
//! with addresses of our own until one is.
//!
//! Memory that is exported counts for every process that has it, in full: for the one that made it and for each that has imported
//! it. So it counts as long as it is there: a process that lets go of it stops counting it, and it goes on counting for whoever
//! keeps it there. What else could keep it, the descriptor in the backend's table, is closed before it stops counting here.
use super::BAD_HANDLE;
use super::pool::{accesses, allocate, exported, location};
use super::shares::{Bytes, Part, Token, What, token};
use crate::device_memory::Owner;
use crate::dispatch::handlers_of;
use crate::limits::{Charge, Limits};
use crate::ring::Failure;
use crate::session::Session;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use vgpu_protocol::calls::{cuMemCreate, cuMemGetAllocationGranularity};
use vgpu_protocol::limits::{ARENA_LEN, WINDOW_LEN};
use vgpu_protocol::result::{self, Code};
use vgpu_protocol::structs::{AllocationProps, HANDLE_TYPE_FILE, Location};

/// Addresses that libcuda is asked for, before there is no room.
const NEAR: u64 = 16;
/// Places to try that are further apart.
const FAR: u64 = 64;
const FAR_STRIDE: u64 = 16 << 30;
/// They are multiples of this.
const STRIDE: u64 = 2 << 20;
/// How far into the device's part of the window the next of them lies. What takes addresses by itself takes the lowest or the
/// highest, so the middle is free.
static NEXT: AtomicU64 = AtomicU64::new((WINDOW_LEN - ARENA_LEN) / 2);

/// Memory that the guest has a handle of, until nothing is mapped to it either.
pub struct Allocation {
    made: Option<Made>,
}

struct Made {
    session: &'static Session,
    raw: u64,
    bytes: u64,
    charge: Charge,
    token: Token,
    /// If it was imported.
    _part: Option<Part>,
}

impl Allocation {
    fn new(session: &'static Session, raw: u64, bytes: u64, charge: Charge, part: Option<Part>) -> Self {
        let made = Made {
            session,
            raw,
            bytes,
            charge,
            token: Token::default(),
            _part: part,
        };
        Self { made: Some(made) }
    }

    /// The token that other processes import it by.
    fn export(&self) -> Result<Bytes, Code> {
        let made = self.made.as_ref().ok_or(result::INVALID_VALUE)?;
        made.token
            .get(&made.session.shares, What::Allocation, made.bytes, || {
                let memories = &made.session.cuda.memories;
                // SAFETY: `exported` gives a place for a descriptor that outlives the call.
                exported(|place| unsafe { memories.export_handle(place, made.raw, HANDLE_TYPE_FILE, 0) })
            })
    }
}

impl std::fmt::Debug for Allocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raw = self.made.as_ref().map(|made| made.raw);
        f.debug_struct("Allocation").field("raw", &raw).finish()
    }
}

#[cfg(test)]
impl Allocation {
    /// One without memory, for tests of tables.
    pub fn of_nothing() -> Self {
        Self { made: None }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            let session = made.session;
            made.token.withdraw(&session.shares, What::Allocation);
            session.survive(session.relaxed(|| session.cuda.memories.release(made.raw)));
            session.limits.give(made.charge);
        }
    }
}

/// The properties that words describe.
fn props(
    session: &Session,
    device: u32,
    compression: u32,
    rdma: u32,
    usage: u32,
    handle_types: u32,
) -> Result<AllocationProps, Code> {
    let bad = |_| result::INVALID_VALUE;
    if handle_types & !HANDLE_TYPE_FILE != 0 {
        return Err(result::NOT_SUPPORTED);
    }
    Ok(AllocationProps::new(
        location(session.cuda.device(device)?),
        compression.try_into().map_err(bad)?,
        rdma.try_into().map_err(bad)?,
        usage.try_into().map_err(bad)?,
        handle_types,
    ))
}

/// Reserves addresses in the window. Left to itself libcuda takes low addresses, so it is told where; what it says of one place
/// says nothing of another one, since only it knows what it keeps there.
fn reserve(session: &Session, bytes: u64, alignment: u64, wanted: u64) -> Result<u64, Failure> {
    let room = session.memory.room();
    if bytes == 0 || bytes > room.end - room.start || (alignment != 0 && !alignment.is_power_of_two()) {
        return Err(result::INVALID_VALUE.into());
    }
    let memories = &session.cuda.memories;
    let inside = |start: u64| start >= room.start && start <= room.end - bytes;
    let (step, whole) = (bytes.next_multiple_of(STRIDE), room.end - room.start);
    let from = NEXT.load(Relaxed);
    let near = (0..NEAR).map(|n| n * step);
    let far = (1..FAR).map(|n| n * FAR_STRIDE.max(step));
    let own = near
        .chain(far)
        .map(|distance| room.start + from.wrapping_add(distance) % (whole - bytes + 1) / STRIDE * STRIDE);
    let first = Some(wanted).filter(|&wanted| inside(wanted));
    let mut refused = result::OUT_OF_MEMORY;
    for hint in first.into_iter().chain(own).chain([0]) {
        let pointer = match memories.address_reserve(bytes as usize, alignment as usize, hint, 0) {
            Ok(pointer) => pointer,
            Err(code) => {
                refused = code;
                continue;
            }
        };
        if !inside(pointer) {
            memories.address_free(pointer, bytes as usize)?;
            continue;
        }
        if session.memory.device(|device| device.reserve(pointer, bytes)) {
            NEXT.store(pointer - room.start + step, Relaxed);
            return Ok(pointer);
        }
        // There may be no more of them.
        memories.address_free(pointer, bytes as usize)?;
        break;
    }
    log::debug!("no addresses for {bytes} bytes: CUDA error {refused}");
    Err(refused.into())
}

handlers_of! {
    cuMemAddressReserve(ring, arguments) {
        let pointer = reserve(ring.session, arguments.bytes, arguments.alignment, arguments.wanted)?;
        Ok(Out { pointer })
    }

    cuMemAddressFree(ring, arguments) {
        let session = ring.session;
        let (pointer, bytes) = (arguments.pointer, arguments.bytes);
        if !session.memory.device(|device| device.unreserve(pointer, bytes)) {
            return Err(result::INVALID_VALUE.into());
        }
        session.cuda.memories.address_free(pointer, bytes as usize)?;
        Ok(Out {})
    }

    cuMemCreate(ring, arguments) {
        let session = ring.session;
        let allocations = &session.objects.allocations;
        allocations.check_new(arguments.allocation).map_err(|_| BAD_HANDLE)?;
        let cuMemCreate::In { device, compression, rdma, usage, handle_types, .. } = arguments;
        let props = props(session, device, compression, rdma, usage, handle_types)?;
        // It needs no context; where there is one it is that of the software GPU's books.
        let context = ring.context().ok();
        let bytes = usize::try_from(arguments.bytes).map_err(|_| result::OUT_OF_MEMORY)?;
        let charge = allocate(session, device, arguments.bytes, context.as_deref())?;
        let mut raw = 0;
        // SAFETY: two places that outlive the call.
        let made = unsafe { session.cuda.memories.create(&mut raw, bytes, &props, 0) };
        made.inspect_err(|_| session.limits.give(charge))?;
        let allocation = Allocation::new(session, raw, arguments.bytes, charge, None);
        allocations.insert(arguments.allocation, allocation).map_err(|_| BAD_HANDLE)?;
        Ok(Out {})
    }

    cuMemRelease(ring, arguments) {
        ring.session.objects.allocations.remove(arguments.allocation).ok_or(BAD_HANDLE)?;
        Ok(Out {})
    }

    cuMemGetAllocationGranularity(ring, arguments) {
        let session = ring.session;
        let cuMemGetAllocationGranularity::In { device, compression, rdma, usage, handle_types, .. } = arguments;
        let props = props(session, device, compression, rdma, usage, handle_types)?;
        let mut bytes = 0;
        // SAFETY: two places that outlive the call.
        unsafe { session.cuda.memories.granularity(&mut bytes, &props, arguments.option) }?;
        Ok(Out { bytes: bytes as u64 })
    }

    cuMemMap(ring, arguments) {
        let session = ring.session;
        let (pointer, bytes) = (arguments.pointer, arguments.bytes);
        let allocation = session.objects.allocations.get(arguments.allocation).ok_or(BAD_HANDLE)?;
        let raw = allocation.made.as_ref().map_or(0, |made| made.raw);
        if !session.memory.device(|device| device.map(pointer, bytes, allocation)) {
            return Err(result::INVALID_VALUE.into());
        }
        let mapped = session.cuda.memories.map(pointer, bytes as usize, arguments.offset as usize, raw, 0);
        if let Err(code) = mapped {
            drop(session.memory.device(|device| device.unmap(pointer, bytes)));
            return Err(code.into());
        }
        Ok(Out {})
    }

    /// No work starts on it from now on. What was submitted before is the guest's to have waited for, as it is natively.
    cuMemUnmap(ring, arguments) {
        let session = ring.session;
        let (pointer, bytes) = (arguments.pointer, arguments.bytes);
        let taken = session.memory.device(|device| device.unmap(pointer, bytes)).ok_or(result::INVALID_VALUE)?;
        if let Err(code) = session.cuda.memories.unmap(pointer, bytes as usize) {
            for (start, mapping) in taken {
                session.memory.add_device(start, mapping.len, mapping.context, mapping.owner);
            }
            return Err(code.into());
        }
        Ok(Out {})
    }

    cuMemSetAccess(ring, arguments, blob, _reply) {
        let session = ring.session;
        let (pointer, bytes) = (arguments.pointer, arguments.bytes);
        let accesses = accesses(session, blob)?;
        if !session.memory.view().device().is_mapped(pointer, bytes) {
            return Err(result::INVALID_VALUE.into());
        }
        let bits = |which: &dyn Fn(u32) -> bool| {
            let picked = accesses.iter().filter(|access| which(access.flags));
            picked.fold(0u32, |bits, access| bits | 1u32.checked_shl(access.location.id as u32).unwrap_or(0))
        };
        let (told, may) = (bits(&|_| true), bits(&|flags| flags != 0));
        // What is not to be accessed any more first, what is after libcuda lets it.
        session.memory.device(|device| device.set_access(pointer, bytes, told & !may, 0));
        // SAFETY: the range is mapped; the array is as long as is said and outlives the call.
        unsafe { session.cuda.memories.set_access(pointer, bytes as usize, accesses.as_ptr(), accesses.len()) }?;
        session.memory.device(|device| device.set_access(pointer, bytes, told, may));
        Ok(Out {})
    }

    cuMemGetAccess(ring, arguments) {
        let session = ring.session;
        let location = location(session.cuda.device(arguments.device)?);
        let is_mapping = matches!(session.memory.view().device().owner(arguments.pointer), Some(Owner::Mapped { .. }));
        if !is_mapping {
            return Err(result::INVALID_VALUE.into());
        }
        let mut flags = 0;
        // SAFETY: two places that outlive the call.
        unsafe { session.cuda.memories.get_access(&mut flags, &location, arguments.pointer) }?;
        Ok(Out { flags })
    }
    cuMemExportToShareableHandle(ring, arguments, _blob, reply) {
        let allocation = ring.session.objects.allocations.get(arguments.allocation).ok_or(BAD_HANDLE)?;
        reply.extend_from_slice(&allocation.export()?);
        Ok(Out {})
    }

    cuMemImportFromShareableHandle(ring, arguments, blob, _reply) {
        let session = ring.session;
        let memories = &session.cuda.memories;
        let allocations = &session.objects.allocations;
        allocations.check_new(arguments.allocation).map_err(|_| BAD_HANDLE)?;
        let found = session.shares.find(What::Allocation, token(blob)?)?;
        let raw = memories.import_handle(found.file()?.as_raw_fd() as usize, HANDLE_TYPE_FILE)?;
        // It is let go of again if anything is wrong with it, and the guest gets it when it is counted.
        let mut allocation = Allocation::new(session, raw, found.len, Limits::nothing(0), Some(session.shares.part()));
        let mut props = AllocationProps::new(Location::of_device(0), 0, 0, 0, 0);
        // SAFETY: a place that outlives the call.
        unsafe { memories.properties(&mut props, raw) }?;
        if props.location.kind != Location::DEVICE {
            return Err(result::NOT_SUPPORTED.into());
        }
        let device = session.cuda.gpu_of(props.location.id)?;
        let charge = allocate(session, device, found.len, None)?;
        if let Some(made) = &mut allocation.made {
            made.charge = charge;
        }
        allocations.insert(arguments.allocation, allocation).map_err(|_| BAD_HANDLE)?;
        Ok(Out {
            device,
            compression: props.compression.into(),
            rdma: props.rdma.into(),
            usage: props.usage.into(),
        })
    }
}

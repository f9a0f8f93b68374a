//! What the host tells of the VM's GPUs. It is asked anew when what it told last is older than [`GPUS_AGE_MS`]: the host
//! would tell the same sooner.
#[cfg(test)]
use crate::fake as host;
use crate::{Result, Return, code};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vgpu_protocol::gpus::{Gpu, Process, Reply, UNKNOWN, text};
use vgpu_protocol::limits::GPUS_AGE_MS;
use vgpu_protocol::virtio::Status;
#[cfg(not(test))]
use vgpu_transport as host;
use vgpu_transport::TransportError;

/// A GPU for the program: its place in [`State::handles`], plus 1.
pub type Handle = usize;

struct State {
    /// How often the library was initialised and not shut down.
    users: u32,
    told: Option<(Instant, Arc<Reply>)>,
    /// The UUIDs of all GPUs that were ever shown: a handle means the same GPU whatever the list is later.
    handles: Vec<[u8; 64]>,
}

static STATE: Mutex<State> = Mutex::new(State {
    users: 0,
    told: None,
    handles: Vec::new(),
});

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the program is told of a failure.
fn code_of(error: &TransportError) -> Return {
    match error {
        TransportError::NoDevice(_) => code::DRIVER_NOT_LOADED,
        TransportError::Refused(Status::Quarantined) | TransportError::Quarantined(_) => code::NO_PERMISSION,
        TransportError::Refused(Status::Limit) => code::INSUFFICIENT_RESOURCES,
        // A host that does not know the question.
        TransportError::Refused(Status::Invalid) => code::DRIVER_NOT_LOADED,
        TransportError::NoMemory => code::MEMORY,
        TransportError::Gone => code::GPU_IS_LOST,
        // The last two are about memory, of which nothing is asked here.
        TransportError::Refused(_)
        | TransportError::Os(_)
        | TransportError::NotItsOwn
        | TransportError::Unsupported => code::UNKNOWN,
    }
}

fn ask(state: &mut State) -> Result<Arc<Reply>> {
    let age_max = Duration::from_millis(GPUS_AGE_MS);
    if let Some((at, told)) = &state.told
        && at.elapsed() < age_max
    {
        return Ok(told.clone());
    }
    let told = Arc::new(host::gpus().map_err(|error| code_of(&error))?);
    state.told = Some((Instant::now(), told.clone()));
    Ok(told)
}

/// The program starts to use the library.
pub fn start() -> Result {
    let mut state = state();
    ask(&mut state)?;
    state.users += 1;
    Ok(())
}

/// It stops to.
pub fn stop() -> Result {
    let mut state = state();
    state.users = state.users.checked_sub(1).ok_or(code::UNINITIALIZED)?;
    if state.users == 0 {
        state.told = None;
    }
    Ok(())
}

/// Whether the program has started to use the library.
pub fn started() -> Result {
    match state().users {
        0 => Err(code::UNINITIALIZED),
        _ => Ok(()),
    }
}

/// What the host tells.
pub fn told() -> Result<Arc<Reply>> {
    let mut state = state();
    match state.users {
        0 => Err(code::UNINITIALIZED),
        _ => ask(&mut state),
    }
}

/// A GPU as it was just told of.
pub struct Device {
    told: Arc<Reply>,
    /// Its place in the list.
    pub index: usize,
}

impl Device {
    /// The GPU that a handle means.
    pub fn of(handle: Handle) -> Result<Self> {
        let told = told()?;
        let uuid = handle
            .checked_sub(1)
            .and_then(|place| state().handles.get(place).copied());
        let uuid = uuid.ok_or(code::INVALID_ARGUMENT)?;
        let index = told.gpus.iter().position(|gpu| gpu.uuid == uuid);
        Ok(Self {
            // It was taken from the VM.
            index: index.ok_or(code::GPU_IS_LOST)?,
            told,
        })
    }

    /// What is told of it.
    pub fn gpu(&self) -> &Gpu {
        &self.told.gpus[self.index]
    }

    /// The VM's processes on it.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let of_it = |process: &&Process| process.gpu as usize == self.index;
        self.told.processes.iter().filter(of_it)
    }
}

/// The handle of the first GPU that fits, by its place in the list.
pub fn find(fits: impl Fn(usize, &Gpu) -> bool) -> Option<Result<Handle>> {
    let told = match told() {
        Ok(told) => told,
        Err(code) => return Some(Err(code)),
    };
    let (_, gpu) = told
        .gpus
        .iter()
        .enumerate()
        .find(|(index, gpu)| fits(*index, gpu))?;
    Some(Ok(handle(gpu)))
}

/// A GPU's handle, which it gets with the first question.
fn handle(gpu: &Gpu) -> Handle {
    let mut state = state();
    let known = state.handles.iter().position(|uuid| *uuid == gpu.uuid);
    let place = known.unwrap_or_else(|| {
        state.handles.push(gpu.uuid);
        state.handles.len() - 1
    });
    place + 1
}

/// A number that the host may not know.
pub fn known(number: u32) -> Result<u32> {
    match number {
        UNKNOWN => Err(code::NOT_SUPPORTED),
        number => Ok(number),
    }
}

/// The numbers of a PCI address such as "00000000:3B:00.0": domain, bus, device, function. The domain may be left out.
pub fn pci(address: &str) -> Option<[u32; 4]> {
    let (device, function) = address.rsplit_once('.')?;
    let mut parts = device.rsplit(':').map(|part| u32::from_str_radix(part, 16).ok());
    let (device, bus) = (parts.next()??, parts.next()??);
    let domain = parts.next().unwrap_or(Some(0))?;
    let whole = parts.next().is_none();
    whole.then_some([domain, bus, device, u32::from_str_radix(function, 16).ok()?])
}

/// A GPU's PCI address.
pub fn pci_of(gpu: &Gpu) -> Result<[u32; 4]> {
    pci(&text(&gpu.pci)).ok_or(code::NOT_SUPPORTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_domain() {
        assert_eq!(pci("00000000:3B:00.0"), Some([0, 0x3b, 0, 0]));
        assert_eq!(pci("0001:0a:1f.7"), Some([1, 0xa, 0x1f, 7]));
        assert_eq!(pci("3b:00.0"), Some([0, 0x3b, 0, 0]));
        for wrong in ["", "3b:00", "0:0:3b:00.0", "x:00.0", "3b:00.x", "00.0"] {
            assert_eq!(pci(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn unknown_numbers_are_not_supported() {
        assert_eq!(known(UNKNOWN), Err(code::NOT_SUPPORTED));
        assert_eq!(known(0), Ok(0));
    }
}

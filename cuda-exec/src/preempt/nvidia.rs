//! The NVIDIA driver's controls. libcuda makes the resource manager's objects below a context with `ioctl`; this program
//! exports an `ioctl` of its own, to which libcuda's calls bind, passes every call on, and notes those objects. On them it
//! issues the resource manager's controls, which their owner may.
//!
//! Numbers and layouts are those of the open kernel modules' interface (`nvos.h`, `ctrl2080fifo.h`, `ctrla06c.h`).
use super::{ControlError, Controls};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_ulong, c_void};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vgpu_sched_api::messages::FromExec;
use vgpu_sched_api::rm::{
    CHANNELS_MAX, Control, DISABLE_CHANNELS, DisableChannels, NVIDIA, RM_CONTROL, request,
};

/// Device number of the driver's nodes, and the minor one of its control node.
const MAJOR: u32 = 195;
const CONTROL_NODE: u32 = 255;
const RM_FREE: u32 = 0x29;
const RM_ALLOC: u32 = 0x2b;

/// Class of a channel group; channels have classes above it with the low byte 0x6f.
const TSG: u32 = 0xa06c;
const SUBDEVICE: u32 = 0x2080;
/// Engine types of graphics and compute.
const COMPUTE: std::ops::RangeInclusive<u32> = 1..=8;

const TSG_SCHEDULE: u32 = 0xa06c_0101;
const TSG_SET_TIMESLICE: u32 = 0xa06c_0103;
const TSG_GET_TIMESLICE: u32 = 0xa06c_0104;
/// A slice to try, in microseconds: not one that anybody sets.
const TRIED: u64 = 1234;

/// The resource manager does not know the object: it was freed with its parent.
const GONE: [u32; 2] = [0x33, 0x57];
/// A control was accepted and has no effect: no status of the driver's.
const NOT_IN_FORCE: ControlError = ControlError(0xd000_0000);
/// Set in a status that is an error of the system call, with the number below.
const SYSTEM: u32 = 0xe000_0000;

/// An object that the resource manager made for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Object {
    /// The descriptor it was made through.
    fd: c_int,
    client: u32,
    parent: u32,
    handle: u32,
    class: u32,
    /// A channel group's engine type.
    engine: u32,
}

impl Object {
    fn is_channel(&self) -> bool {
        self.class > TSG && self.class & 0xff == 0x6f
    }
}

#[derive(Debug)]
struct Objects {
    all: Vec<Object>,
    /// Grows whenever `all` changes.
    changes: u64,
    slice: Option<u64>,
    stopped: bool,
}

static OBJECTS: Mutex<Objects> = Mutex::new(Objects {
    all: Vec::new(),
    changes: 0,
    slice: None,
    stopped: false,
});

fn objects() -> MutexGuard<'static, Objects> {
    OBJECTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `NVOS64_PARAMETERS`, of which the older form has the same beginning.
#[repr(C)]
struct Alloc {
    client: u32,
    parent: u32,
    handle: u32,
    class: u32,
    params: u64,
}

/// `NVOS00_PARAMETERS`.
#[repr(C)]
struct Free {
    client: u32,
    parent: u32,
    handle: u32,
    status: u32,
}

/// The program's `ioctl`. C declares it variadic; on x86-64 a variadic argument of this kind travels like a named one.
///
/// # Safety
/// As for the system call: `arg` is what `request` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
    // SAFETY: the caller's arguments, unchanged.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, fd, request, arg) } as c_int;
    let (kind, number, len) = (
        request as u32 >> 8 & 0xff,
        request as u32 & 0xff,
        request as usize >> 16 & 0x3fff,
    );
    if result == 0 && kind == NVIDIA && !arg.is_null() {
        // SAFETY: the driver accepted `len` bytes at `arg` as the parameters of this request. What is read of them is
        // within `len`, and they are aligned as the driver's structures are.
        unsafe {
            match number {
                RM_ALLOC if len >= 32 => note_alloc(fd, arg.cast(), len),
                RM_FREE if len >= size_of::<Free>() => note_free(&*arg.cast()),
                RM_CONTROL if len >= size_of::<Control>() => note_control(&*arg.cast()),
                _ => {}
            }
        }
    }
    result
}

/// # Safety
/// `len` bytes at `arg`, at least 32, are the parameters of a successful `RM_ALLOC`.
unsafe fn note_alloc(fd: c_int, arg: *const u32, len: usize) {
    // SAFETY: the caller's. The status is the last word but one of the long form, which is padded, and the last of the short.
    let (alloc, status) = unsafe { (&*arg.cast::<Alloc>(), *arg.add(if len >= 48 { 10 } else { 7 })) };
    let mut object = Object {
        fd,
        client: alloc.client,
        parent: alloc.parent,
        handle: alloc.handle,
        class: alloc.class,
        engine: 0,
    };
    if status != 0 || !(object.class == TSG || object.is_channel() || object.class == SUBDEVICE) {
        return;
    }
    if object.class == TSG && alloc.params != 0 {
        // SAFETY: the driver has just read the group's parameters there; the engine type is word 3.
        object.engine = unsafe { *(alloc.params as *const u32).add(3) };
    }
    let mut objects = objects();
    objects.all.push(object);
    objects.changes += 1;
    if objects.stopped && object.is_channel() && objects.is_compute_channel(&object) {
        // It must not run while the process is stopped. Should that fail, the stop is found not to hold.
        let _ = objects.disable(&[object], true);
    }
}

fn note_free(free: &Free) {
    if free.status == 0 {
        objects().forget(free.client, free.handle);
    }
}

/// A group gets its slice when libcuda lets it run, and again when libcuda sets one itself; a stopped process' channels are
/// stopped again when libcuda lets them run.
fn note_control(control: &Control) {
    if control.status != 0 || !matches!(control.cmd, TSG_SCHEDULE | TSG_SET_TIMESLICE) {
        return;
    }
    let mut objects = objects();
    let group = objects.all.iter().copied().find(|object| {
        object.class == TSG && object.client == control.client && object.handle == control.object
    });
    let Some(group) = group else { return };
    if let Some(slice) = objects.slice {
        // Found by `refresh` if it does not hold.
        let _ = set_timeslice(&group, slice);
    }
    if objects.stopped && control.cmd == TSG_SCHEDULE && COMPUTE.contains(&group.engine) {
        let channels: Vec<_> = objects
            .compute_channels()
            .filter(|channel| channel.parent == group.handle)
            .collect();
        // It may be stopped since it was made, and the driver counts: what is not stopped may be resumed, but not stopped
        // twice.
        let _ = objects.disable(&channels, false);
        let _ = objects.disable(&channels, true);
    }
}

/// Issues one control.
fn control<T>(object: &Object, cmd: u32, params: &mut T) -> Result<(), ControlError> {
    let mut call = Control {
        client: object.client,
        object: object.handle,
        cmd,
        flags: 0,
        params: &raw mut *params as u64,
        params_len: size_of::<T>() as u32,
        status: 0,
    };
    let request = request(RM_CONTROL, size_of::<Control>());
    // SAFETY: both structures have the control's layout and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            object.fd,
            request,
            (&raw mut call).cast::<c_void>(),
        )
    };
    match (result, call.status) {
        (0, 0) => Ok(()),
        (0, status) => Err(ControlError(status)),
        _ => Err(ControlError(
            SYSTEM | std::io::Error::last_os_error().raw_os_error().unwrap_or(0) as u32,
        )),
    }
}

fn set_timeslice(group: &Object, microseconds: u64) -> Result<(), ControlError> {
    control(group, TSG_SET_TIMESLICE, &mut { microseconds })
}

fn timeslice(group: &Object) -> Result<u64, ControlError> {
    let mut microseconds = 0u64;
    control(group, TSG_GET_TIMESLICE, &mut microseconds)?;
    Ok(microseconds)
}

/// Sets a slice, and sees that it is in force.
fn set_and_see(group: &Object, microseconds: u64) -> Result<(), ControlError> {
    set_timeslice(group, microseconds)?;
    let now = timeslice(group)?;
    if now != microseconds {
        log::warn!("a time slice of {microseconds} us was accepted and is {now} us");
        return Err(NOT_IN_FORCE);
    }
    Ok(())
}

impl Objects {
    /// Forgets an object and what was made below it.
    fn forget(&mut self, client: u32, handle: u32) {
        self.changes += 1;
        let mut gone = vec![handle];
        while let Some(parent) = gone.pop() {
            self.all.retain(|object| {
                let with_it = object.client == client
                    && (object.handle == parent || object.parent == parent || object.client == parent);
                if with_it && object.handle != parent {
                    gone.push(object.handle);
                }
                !with_it
            });
        }
    }

    /// What it takes to stop the compute channels, by client.
    fn stoppable(&self) -> BTreeMap<u32, Stoppable> {
        let mut clients: BTreeMap<u32, Stoppable> = BTreeMap::new();
        for channel in self.compute_channels() {
            let client = clients.entry(channel.client).or_default();
            client.fd = channel.fd;
            client.channels.push(channel.handle);
        }
        for subdevice in self.all.iter().filter(|object| object.class == SUBDEVICE) {
            if let Some(client) = clients.get_mut(&subdevice.client) {
                client.subdevices.push(subdevice.handle);
            }
        }
        clients
    }

    fn groups(&self) -> impl Iterator<Item = Object> + '_ {
        self.all.iter().copied().filter(|object| object.class == TSG)
    }

    fn is_compute_channel(&self, channel: &Object) -> bool {
        channel.is_channel()
            && self.groups().any(|group| {
                group.client == channel.client
                    && group.handle == channel.parent
                    && COMPUTE.contains(&group.engine)
            })
    }

    fn compute_channels(&self) -> impl Iterator<Item = Object> + '_ {
        self.all
            .iter()
            .copied()
            .filter(|object| self.is_compute_channel(object))
    }

    /// Stops channels, or resumes them; those that have gone meanwhile are forgotten.
    fn disable(&mut self, channels: &[Object], disable: bool) -> Result<(), ControlError> {
        let mut outcome = Ok(());
        for some in channels
            .chunk_by(|a, b| a.client == b.client)
            .flat_map(|one| one.chunks(CHANNELS_MAX))
        {
            match self.disable_some(some, disable) {
                Ok(()) => {}
                Err(error) if some.len() == 1 => {
                    if GONE.contains(&error.0) {
                        self.forget(some[0].client, some[0].handle);
                    } else {
                        outcome = Err(error);
                    }
                }
                // One of them has gone, perhaps: the others one by one. Some may have been stopped, and the driver counts.
                Err(_) => {
                    for one in some {
                        if disable {
                            let _ = self.disable_some(std::slice::from_ref(one), false);
                        }
                        outcome = self.disable(std::slice::from_ref(one), disable).and(outcome);
                    }
                }
            }
        }
        outcome
    }

    /// Stops or resumes up to [`CHANNELS_MAX`] channels of one client.
    fn disable_some(&self, channels: &[Object], disable: bool) -> Result<(), ControlError> {
        let named = channels.iter().map(|channel| (channel.client, channel.handle));
        let mut params = DisableChannels::new(disable, named);
        let mut tried = Err(ControlError(GONE[0]));
        for subdevice in self
            .all
            .iter()
            .filter(|o| o.class == SUBDEVICE && o.client == channels[0].client)
        {
            tried = control(subdevice, DISABLE_CHANNELS, &mut params);
            if tried.is_ok() {
                break;
            }
        }
        tried
    }

    fn disable_all(&mut self, disable: bool) -> Result<(), ControlError> {
        let channels: Vec<_> = self.compute_channels().collect();
        self.disable(&channels, disable)
    }

    /// Gives all groups the slice that was set.
    fn apply_slice(&mut self) -> Result<(), ControlError> {
        match self.slice {
            Some(slice) => self.for_each_group(|group| set_and_see(group, slice)),
            None => Ok(()),
        }
    }

    /// Does something with all groups; those that have gone meanwhile are forgotten.
    fn for_each_group(
        &mut self,
        f: impl Fn(&Object) -> Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        for group in self.groups().collect::<Vec<_>>() {
            match f(&group) {
                Err(error) if GONE.contains(&error.0) => self.forget(group.client, group.handle),
                done => done?,
            }
        }
        Ok(())
    }
}

/// A client's compute channels, and what it takes to stop them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stoppable {
    fd: c_int,
    subdevices: Vec<u32>,
    channels: Vec<u32>,
}

/// The driver's node behind a descriptor, by its minor number; `None` if it is none.
fn node(fd: BorrowedFd<'_>) -> Option<u32> {
    let device = rustix::fs::fstat(fd).ok()?.st_rdev;
    (rustix::fs::major(device) == MAJOR).then(|| rustix::fs::minor(device))
}

/// Lends a descriptor of libcuda's.
fn borrow<R>(fd: c_int, f: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
    // SAFETY: a number that libcuda had open when it used it. Should it have closed it meanwhile, the number names nothing
    // or another file, which is looked at and not changed.
    (fd >= 0).then(|| f(unsafe { BorrowedFd::borrow_raw(fd) }))
}

/// A duplicate of a descriptor of the driver's control node. Of no other: with those of a GPU's node and of `nvidia-uvm`,
/// the DMA of a process that was killed would go on for as long as somebody has them.
fn control_node(fd: c_int) -> Option<OwnedFd> {
    let duplicate = borrow(fd, |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3))?.ok()?;
    (node(std::os::fd::AsFd::as_fd(&duplicate))? == CONTROL_NODE).then_some(duplicate)
}

/// What is to be told after `told`, when it is `now`: by client, nothing for one that is gone.
fn differences(told: &BTreeMap<u32, Stoppable>, now: &BTreeMap<u32, Stoppable>) -> Vec<(u32, Stoppable)> {
    let changed = now.iter().filter(|(client, what)| told.get(client) != Some(what));
    let gone = told.keys().filter(|client| !now.contains_key(client));
    changed
        .map(|(client, what)| (*client, what.clone()))
        .chain(gone.map(|client| (*client, Stoppable::default())))
        .collect()
}

/// See the module.
#[derive(Default)]
pub struct Nvidia {
    /// The state of the objects that was told last.
    told_changes: Option<u64>,
    /// What was told, by client.
    told: BTreeMap<u32, Stoppable>,
    /// The descriptors it was told with.
    fds: BTreeMap<u32, OwnedFd>,
}

impl Controls for Nvidia {
    fn set_slice(&mut self, microseconds: u64) -> Result<(), ControlError> {
        let mut objects = objects();
        objects.slice = Some(microseconds);
        objects.apply_slice()
    }

    fn stop(&mut self) -> Result<(), ControlError> {
        let mut objects = objects();
        objects.stopped = true;
        objects.disable_all(true)
    }

    fn resume(&mut self) -> Result<(), ControlError> {
        let mut objects = objects();
        objects.stopped = false;
        objects.disable_all(false)
    }

    fn refresh(&mut self) -> Result<(), ControlError> {
        objects().apply_slice()
    }

    fn suspended(&mut self) {
        let mut objects = objects();
        // Where libcuda closed a descriptor, the kernel freed what was made through it.
        objects
            .all
            .retain(|object| borrow(object.fd, node).flatten().is_some());
        objects.changes += 1;
    }

    fn news(&mut self) -> Vec<(FromExec, OwnedFd)> {
        let (changes, now) = {
            let objects = objects();
            if self.told_changes == Some(objects.changes) {
                return Vec::new();
            }
            (objects.changes, objects.stoppable())
        };
        self.told_changes = Some(changes);
        let mut news = Vec::new();
        for (client, what) in differences(&self.told, &now) {
            // A client that is gone has nothing: its number may become another process'.
            let fd = match now.contains_key(&client) {
                true => control_node(what.fd),
                false => self.fds.remove(&client),
            };
            let Some(fd) = fd else {
                log::warn!("what it takes to stop client {client:#x} cannot be handed over");
                continue;
            };
            if now.contains_key(&client)
                && let Ok(kept) = fd.try_clone()
            {
                self.fds.insert(client, kept);
            }
            let message = FromExec::Channels {
                client,
                subdevices: what.subdevices,
                channels: what.channels,
            };
            news.push((message, fd));
        }
        self.told = now;
        news
    }

    fn tell_again(&mut self) {
        self.told_changes = None;
        self.told.clear();
        self.fds.clear();
    }

    fn try_slice(&mut self) -> Result<(), ControlError> {
        let mut objects = objects();
        if objects.groups().next().is_none() {
            return Err(NOT_IN_FORCE);
        }
        objects.for_each_group(|group| {
            let before = timeslice(group)?;
            set_and_see(group, TRIED)?;
            set_and_see(group, before)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn object(parent: u32, handle: u32, class: u32, engine: u32) -> Object {
        Object {
            fd: -1,
            client: 7,
            parent,
            handle,
            class,
            engine,
        }
    }

    fn some() -> Objects {
        Objects {
            all: vec![
                object(1, 2, SUBDEVICE, 0),
                object(1, 10, TSG, 1),
                object(10, 11, 0xc86f, 0),
                object(10, 12, 0xc86f, 0),
                object(1, 20, TSG, 11),
                object(20, 21, 0xc86f, 0),
            ],
            changes: 0,
            slice: None,
            stopped: false,
        }
    }

    #[test]
    fn compute_channels_are_those_of_compute_groups() {
        let objects = some();
        let handles: Vec<_> = objects.compute_channels().map(|channel| channel.handle).collect();
        assert_eq!(handles, [11, 12]);
    }

    #[test]
    fn what_it_takes_to_stop_a_client_are_its_subdevices_and_compute_channels() {
        let mut objects = some();
        objects.all.push(Object {
            client: 8,
            ..object(1, 2, SUBDEVICE, 0)
        });
        let stoppable = objects.stoppable();
        let expected = Stoppable {
            fd: -1,
            subdevices: vec![2],
            channels: vec![11, 12],
        };
        assert_eq!(stoppable, BTreeMap::from([(7, expected)]));
        objects.forget(7, 10);
        assert!(objects.stoppable().is_empty());
    }

    #[test]
    fn what_changed_is_told_and_a_client_that_is_gone_has_nothing() {
        let mut objects = some();
        let before = objects.stoppable();
        assert_eq!(differences(&BTreeMap::new(), &before).len(), 1);
        assert!(differences(&before, &before).is_empty());
        objects.forget(7, 12);
        let fewer = objects.stoppable();
        assert_eq!(differences(&before, &fewer), [(7, fewer[&7].clone())]);
        objects.forget(7, 7);
        assert_eq!(
            differences(&fewer, &objects.stoppable()),
            [(7, Stoppable::default())]
        );
    }

    #[test]
    fn nothing_but_the_control_node_is_handed_over() {
        use std::os::fd::AsRawFd;
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(control_node(null.as_raw_fd()).is_none());
        assert!(control_node(-1).is_none());
    }

    #[test]
    fn what_was_made_below_an_object_goes_with_it() {
        let mut objects = some();
        objects.forget(7, 10);
        assert_eq!(
            objects.all.iter().map(|o| o.handle).collect::<Vec<_>>(),
            [2, 20, 21]
        );
        objects.forget(8, 20);
        assert_eq!(objects.all.len(), 3);
        // The client itself.
        objects.forget(7, 7);
        assert!(objects.all.is_empty());
    }
}

//! Resource manager controls, issued on the process' own objects.

use std::ffi::c_void;

use crate::hook::{Object, objects};

/// `NV_ESC_RM_CONTROL` with `NVOS54_PARAMETERS` (32 bytes, read and written).
const RM_CONTROL: libc::c_ulong = 3 << 30 | 32 << 16 | (b'F' as libc::c_ulong) << 8 | 0x2a;
const DISABLE_CHANNELS: u32 = 0x2080_110b;
const SET_TIMESLICE: u32 = 0xa06c_0103;
const MAX_CHANNELS: usize = 64;

#[repr(C)]
struct Control {
    client: u32,
    object: u32,
    cmd: u32,
    flags: u32,
    params: u64,
    params_size: u32,
    status: u32,
}

/// `NV2080_CTRL_FIFO_DISABLE_CHANNELS_PARAMS`.
#[repr(C)]
struct DisableChannels {
    disable: u8,
    _pad: [u8; 3],
    count: u32,
    only_scheduling: u8,
    rewind: u8,
    _pad2: [u8; 6],
    event: u64,
    clients: [u32; MAX_CHANNELS],
    channels: [u32; MAX_CHANNELS],
}

/// Issues one control. The error is the resource manager's status, or `0xe000_0000 | errno`.
fn control<T>(object: &Object, cmd: u32, params: &mut T) -> Result<(), u32> {
    let mut call = Control {
        client: object.client,
        object: object.handle,
        cmd,
        flags: 0,
        params: &raw mut *params as u64,
        params_size: size_of::<T>() as u32,
        status: 0,
    };
    // SAFETY: both structures have the control's layout and outlive the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            object.fd,
            RM_CONTROL,
            (&raw mut call).cast::<c_void>(),
        )
    };
    match (rc, call.status) {
        (0, 0) => Ok(()),
        (0, status) => Err(status),
        _ => Err(0xe000_0000 | std::io::Error::last_os_error().raw_os_error().unwrap_or(0) as u32),
    }
}

/// Sets the time slice of every channel group, in microseconds. Returns how many there are.
pub fn set_timeslice(micros: u64) -> Result<usize, u32> {
    let groups: Vec<_> = objects().into_iter().filter(Object::is_tsg).collect();
    for group in &groups {
        let mut slice = micros;
        control(group, SET_TIMESLICE, &mut slice)?;
    }
    Ok(groups.len())
}

/// The channels of the compute groups.
pub fn compute_channels() -> Vec<Object> {
    let all = objects();
    let in_compute_group = |channel: &Object| {
        all.iter().any(|group| {
            group.is_compute_tsg() && group.client == channel.client && group.handle == channel.parent
        })
    };
    all.iter()
        .filter(|o| o.is_channel() && in_compute_group(o))
        .copied()
        .collect()
}

/// Stops (`true`) or resumes the compute channels.
pub fn stop_channels(stop: bool) -> Result<(), u32> {
    let channels = compute_channels();
    let mut params = DisableChannels {
        disable: u8::from(stop),
        _pad: [0; 3],
        count: channels.len().min(MAX_CHANNELS) as u32,
        only_scheduling: 0,
        rewind: 0,
        _pad2: [0; 6],
        event: 0,
        clients: [0; MAX_CHANNELS],
        channels: [0; MAX_CHANNELS],
    };
    for (i, channel) in channels.iter().take(MAX_CHANNELS).enumerate() {
        params.clients[i] = channel.client;
        params.channels[i] = channel.handle;
    }
    let subdevice = objects()
        .into_iter()
        .find(|o| o.is_subdevice() && o.client == params.clients[0] && params.count > 0)
        .ok_or(0xe000_0000 | libc::ESRCH as u32)?;
    control(&subdevice, DISABLE_CHANNELS, &mut params)
}

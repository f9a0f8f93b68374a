//! What a stop of channels looks like to NVIDIA's resource manager: the control that an executor, and `vgpud` in its place,
//! issues on the driver's control node. Numbers and layouts are those of the open kernel modules' interface (`nvos.h`,
//! `nv_escape.h`, `ctrl2080fifo.h`). Data only: whoever issues a request has the descriptor.

/// The major number of the driver's device nodes.
pub const MAJOR: u32 = 195;
/// The minor number of its control node, `/dev/nvidiactl`.
pub const CONTROL_MINOR: u32 = 255;

/// The type of the driver's requests.
pub const NVIDIA: u32 = b'F' as u32;
/// Number of the request that issues a control.
pub const RM_CONTROL: u32 = 0x2a;

/// The control that disables or enables channels; issued on a subdevice, with [`DisableChannels`].
pub const DISABLE_CHANNELS: u32 = 0x2080_110b;
/// Channels in one [`DisableChannels`] at most.
pub const CHANNELS_MAX: usize = 64;

/// `NVOS54_PARAMETERS`: one control.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Control {
    pub client: u32,
    pub object: u32,
    pub cmd: u32,
    pub flags: u32,
    /// The address of the control's own parameters.
    pub params: u64,
    /// Their bytes.
    pub params_len: u32,
    /// What the resource manager answers; 0 is success.
    pub status: u32,
}

/// `NV2080_CTRL_FIFO_DISABLE_CHANNELS_PARAMS`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DisableChannels {
    disable: u8,
    _pad0: [u8; 3],
    count: u32,
    only_scheduling: u8,
    rewind: u8,
    _pad1: [u8; 6],
    event: u64,
    clients: [u32; CHANNELS_MAX],
    channels: [u32; CHANNELS_MAX],
}

impl DisableChannels {
    /// Disables or enables channels, each with its client; the first [`CHANNELS_MAX`] of them.
    pub fn new(disable: bool, channels: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut params = Self {
            disable: u8::from(disable),
            _pad0: [0; 3],
            count: 0,
            only_scheduling: 0,
            rewind: 0,
            _pad1: [0; 6],
            event: 0,
            clients: [0; CHANNELS_MAX],
            channels: [0; CHANNELS_MAX],
        };
        for (i, (client, channel)) in channels.into_iter().take(CHANNELS_MAX).enumerate() {
            params.clients[i] = client;
            params.channels[i] = channel;
            params.count = i as u32 + 1;
        }
        params
    }

    /// The channels, each with its client.
    pub fn channels(&self) -> impl Iterator<Item = (u32, u32)> {
        let count = (self.count as usize).min(CHANNELS_MAX);
        let all = self.clients.iter().copied().zip(self.channels.iter().copied());
        all.take(count)
    }
}

/// The number of a system call's request that passes a structure of `len` bytes there and back.
pub const fn request(number: u32, len: usize) -> u64 {
    3 << 30 | (len as u64) << 16 | (NVIDIA as u64) << 8 | number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_drivers() {
        assert_eq!(size_of::<Control>(), 32);
        assert_eq!(size_of::<DisableChannels>(), 536);
        assert_eq!(std::mem::offset_of!(DisableChannels, event), 16);
        assert_eq!(request(RM_CONTROL, size_of::<Control>()), 0xc020_462a);
    }

    #[test]
    fn no_more_channels_are_named_than_there_is_room_for() {
        let params = DisableChannels::new(true, (0..100).map(|n| (7, n)));
        assert!(params.channels().eq((0..64).map(|n| (7, n))));
        assert_eq!(DisableChannels::new(false, []).channels().count(), 0);
    }
}

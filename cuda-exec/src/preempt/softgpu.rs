//! The software GPU's controls: one function that its libcuda exports.
use super::{ControlError, Controls};
use crate::cuda::Cuda;

type Control = extern "C" fn(u32, u64) -> i32;

const STOP: u32 = 1;
const RESUME: u32 = 2;
const SET_SLICE: u32 = 3;

/// See the module.
pub struct SoftGpu(Control);

impl SoftGpu {
    /// The controls, if the software GPU is loaded.
    pub fn find(cuda: &Cuda) -> Option<Self> {
        // SAFETY: only the software GPU exports this name, and with this type.
        unsafe { cuda.symbol::<Control>(b"vgpu_softgpu_control\0") }.map(Self)
    }

    fn control(&self, op: u32, arg: u64) -> Result<(), ControlError> {
        match (self.0)(op, arg) {
            0 => Ok(()),
            status => Err(ControlError(status as u32)),
        }
    }
}

impl Controls for SoftGpu {
    fn set_slice(&mut self, microseconds: u64) -> Result<(), ControlError> {
        self.control(SET_SLICE, microseconds)
    }
    fn stop(&mut self) -> Result<(), ControlError> {
        self.control(STOP, 0)
    }
    fn resume(&mut self) -> Result<(), ControlError> {
        self.control(RESUME, 0)
    }
    fn try_slice(&mut self) -> Result<(), ControlError> {
        // It refuses what is no slice, so it looks at what it is told.
        match self.control(SET_SLICE, 0) {
            Err(_) => Ok(()),
            Ok(()) => Err(ControlError(0)),
        }
    }
    fn refresh(&mut self) -> Result<(), ControlError> {
        // It applies the slice to new contexts by itself.
        Ok(())
    }
}

//! User objects.
use super::cuda;
use crate::abi::{CUhostFn, CUuserObject, Host, HostCall, Out};
use crate::session::Call;
use std::ffi::c_uint;
use vgpu_protocol::result;

/// CU_USER_OBJECT_NO_DESTRUCTOR_SYNC: what every caller must say.
const NO_DESTRUCTOR_SYNC: c_uint = 1;

cuda! {
    fn cuUserObjectCreate(
        object: Out<CUuserObject>, data: Host, destroy: Option<CUhostFn>, count: c_uint, flags: c_uint,
    ) {
        let call = Call::local()?;
        object.check()?;
        if flags != NO_DESTRUCTOR_SYNC {
            return Err(result::INVALID_VALUE);
        }
        object.set(call.session.make_user_object(HostCall::new(destroy, data)?, count)?)
    }

    fn cuUserObjectRetain(object: CUuserObject, count: c_uint) {
        Call::local()?.session.user_object(object)?.retain(count)
    }

    fn cuUserObjectRelease(object: CUuserObject, count: c_uint) {
        Call::local()?.session.user_object(object)?.release(count)
    }
}

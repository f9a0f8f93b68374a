//! Linking at run time.
use super::Raw;
use super::group::group;
use std::ffi::{c_char, c_void};

group! {
    /// Functions of the linker.
    Linker {
        raw create = "cuLinkCreate_v2" (options_len: u32, options: *mut i32, values: *mut usize, link: *mut Raw);
        raw add_data = "cuLinkAddData_v2" (link: Raw, kind: i32, data: *const c_void, len: usize, name: *const c_char,
            options_len: u32, options: *mut i32, values: *mut usize);
        raw complete = "cuLinkComplete" (link: Raw, image: *mut *const u8, len: *mut usize);
        plain destroy = "cuLinkDestroy" (link: Raw);
    }
}

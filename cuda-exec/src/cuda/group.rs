//! Functions of the driver API by topic, each declared once: its symbol, its arguments, and where its result goes.

/// Declares a group of functions. One that the loaded libcuda lacks answers NOT_SUPPORTED. A row is
/// `kind method = symbol (arguments) -> result;`, where the kind says where the place for the result is in C:
/// `first` or `last` among the arguments, or `plain` for a function without one. These are safe to call: they take
/// numbers, and handles that are alive (see [`super`]). A `raw` row takes its C arguments as they are, and is unsafe.
macro_rules! group {
    ($(#[$doc:meta])* $group:ident {
        $($(#[$note:meta])* $kind:ident $method:ident = $symbol:literal ($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*
    }) => {
        $(#[$doc])*
        pub struct $group { $($method: Option<$crate::cuda::group::signature!($kind ($($type),*) $($result)?)>,)* }

        impl $group {
            /// Looks the functions up.
            pub fn load(library: &libloading::Library) -> Self {
                Self { $(
                    // SAFETY: the driver API's ABI gives this name this signature.
                    $method: unsafe { library.get::<$crate::cuda::group::signature!($kind ($($type),*) $($result)?)>(
                        concat!($symbol, "\0").as_bytes(),
                    ) }.ok().map(|symbol| *symbol),
                )* }
            }

            $($crate::cuda::group::method! { $(#[$note])* $kind $method ($($arg: $type),*) $($result)? })*
        }
    };
}

macro_rules! signature {
    (first ($($type:ty),*) $result:ty) => { unsafe extern "C" fn(*mut $result, $($type),*) -> vgpu_protocol::result::Code };
    (last ($($type:ty),*) $result:ty) => { unsafe extern "C" fn($($type,)* *mut $result) -> vgpu_protocol::result::Code };
    ($kind:ident ($($type:ty),*)) => { unsafe extern "C" fn($($type),*) -> vgpu_protocol::result::Code };
}

macro_rules! method {
    ($(#[$note:meta])* first $method:ident ($($arg:ident: $type:ty),*) $result:ty) => {
        $(#[$note])*
        pub fn $method(&self, $($arg: $type),*) -> Result<$result, vgpu_protocol::result::Code> {
            let function = self.$method.ok_or(vgpu_protocol::result::NOT_SUPPORTED)?;
            // SAFETY: numbers and live handles (see the parent module), and a place that outlives the call.
            $crate::cuda::get(|place| unsafe { function(place, $($arg),*) })
        }
    };
    ($(#[$note:meta])* last $method:ident ($($arg:ident: $type:ty),*) $result:ty) => {
        $(#[$note])*
        pub fn $method(&self, $($arg: $type),*) -> Result<$result, vgpu_protocol::result::Code> {
            let function = self.$method.ok_or(vgpu_protocol::result::NOT_SUPPORTED)?;
            // SAFETY: numbers and live handles (see the parent module), and a place that outlives the call.
            $crate::cuda::get(|place| unsafe { function($($arg,)* place) })
        }
    };
    ($(#[$note:meta])* plain $method:ident ($($arg:ident: $type:ty),*)) => {
        $(#[$note])*
        pub fn $method(&self, $($arg: $type),*) -> Result<(), vgpu_protocol::result::Code> {
            let function = self.$method.ok_or(vgpu_protocol::result::NOT_SUPPORTED)?;
            // SAFETY: numbers and live handles (see the parent module).
            $crate::cuda::check(unsafe { function($($arg),*) })
        }
    };
    ($(#[$note:meta])* raw $method:ident ($($arg:ident: $type:ty),*)) => {
        $(#[$note])*
        ///
        /// # Safety
        /// Pointers are valid for what the driver API's documentation says of them; memory that work is submitted on stays
        /// until that work is done.
        #[allow(clippy::too_many_arguments, reason = "as many as in C")]
        pub unsafe fn $method(&self, $($arg: $type),*) -> Result<(), vgpu_protocol::result::Code> {
            let function = self.$method.ok_or(vgpu_protocol::result::NOT_SUPPORTED)?;
            // SAFETY: the caller's.
            $crate::cuda::check(unsafe { function($($arg),*) })
        }
    };
}

pub(crate) use {group, method, signature};

//! Every symbol of the ABI, and finding them by name.
//!
//! The rows of the call table become one list: a `none` row's functions are made here, those of the other rows must exist in
//! [`crate::api`] under their names, or this does not compile.
use std::collections::HashMap;
use std::sync::OnceLock;
use vgpu_protocol::result;

/// One exported function.
struct Symbol {
    since: u32,
    per_thread: bool,
    function: usize,
}

/// A name with its functions.
struct Row {
    name: &'static str,
    symbols: Vec<Symbol>,
}

macro_rules! unsupported {
    (none $($symbol:ident),*) => {$(
        /// Not offered.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub extern "C" fn $symbol() -> crate::abi::CUresult {
            result::NOT_SUPPORTED
        }
    )*};
    ($mode:ident $($symbol:ident),*) => {
        pub use crate::api::{$($symbol),*};
    };
}

macro_rules! table {
    ($($mode:ident $op:literal $name:ident { $($symbol:ident : $since:literal),* } { $($pt:ident : $pts:literal),* }
       ($($a:ident : $at:ty),*) -> ($($r:ident : $rt:ty),*) [$($flag:ident)*];)*) => {
        mod symbols {
            use super::result;
            $(unsupported! { $mode $($symbol),* $(, $pt)* })*
        }

        fn rows() -> Vec<Row> {
            vec![$(Row {
                name: stringify!($name),
                symbols: vec![
                    $(Symbol { since: $since, per_thread: false, function: symbols::$symbol as *const () as usize },)*
                    $(Symbol { since: $pts, per_thread: true, function: symbols::$pt as *const () as usize },)*
                ],
            }),*]
        }

        /// The newest CUDA version of which the table has symbols.
        pub const NEWEST: u32 = newest(&[$($($since,)* $($pts,)*)*]);
    };
}

vgpu_protocol::for_each_call!(table);

macro_rules! old {
    ($($symbol:ident)*) => {
        /// Exported for whoever links to them by name.
        mod old_symbols {
            use super::result;
            unsupported! { none $($symbol),* }
        }
    };
}

vgpu_protocol::for_each_old_symbol!(old);

const fn newest(versions: &[u32]) -> u32 {
    let (mut newest, mut i) = (0, 0);
    while i < versions.len() {
        if versions[i] > newest {
            newest = versions[i];
        }
        i += 1;
    }
    newest
}

/// How a search for a function ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Its address.
    Found(usize),
    /// It came with a later version than was asked for.
    TooNew,
    /// There is no such name.
    Unknown,
}

/// The newest function of that unversioned name up to `version`; with `per_thread`, the one whose null stream is the
/// thread's, where there is one.
pub fn find(name: &[u8], version: u32, per_thread: bool) -> Lookup {
    static ROWS: OnceLock<HashMap<&'static [u8], Row>> = OnceLock::new();
    let rows = ROWS.get_or_init(|| rows().into_iter().map(|row| (row.name.as_bytes(), row)).collect());
    let Some(row) = rows.get(name) else {
        return Lookup::Unknown;
    };
    let of = |per_thread: bool| row.symbols.iter().filter(move |s| s.per_thread == per_thread);
    let fits = |s: &&Symbol| s.since <= version;
    let best = |per_thread| of(per_thread).filter(fits).max_by_key(|s| s.since);
    let found = if per_thread {
        best(true).or_else(|| best(false))
    } else {
        best(false)
    };
    found.map_or(Lookup::TooNew, |symbol| Lookup::Found(symbol.function))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;

    #[test]
    fn the_newest_function_up_to_the_version_is_found() {
        let at = |function: *const ()| Lookup::Found(function as usize);
        let create = |version| find(b"cuCtxCreate", version, false);
        assert_eq!(create(3000), Lookup::TooNew);
        assert_eq!(create(11030), at(api::cuCtxCreate_v2 as *const ()));
        assert_eq!(create(11040), at(api::cuCtxCreate_v3 as *const ()));
        assert_eq!(create(13000), at(api::cuCtxCreate_v4 as *const ()));
        assert_eq!(
            find(b"cuLaunchKernel", 13000, false),
            at(api::cuLaunchKernel as *const ())
        );
        assert_eq!(
            find(b"cuLaunchKernel", 13000, true),
            at(api::cuLaunchKernel_ptsz as *const ())
        );
        assert_eq!(
            find(b"cuMemAlloc", 13000, true),
            at(api::cuMemAlloc_v2 as *const ())
        );
        assert_eq!(find(b"cuMemAlloc_v2", 13000, false), Lookup::Unknown);
        assert_eq!(find(b"cuNothing", 13000, false), Lookup::Unknown);
    }

    #[test]
    fn every_name_of_the_table_is_found() {
        for call in vgpu_protocol::calls::CALLS {
            assert!(
                matches!(find(call.name.as_bytes(), NEWEST, false), Lookup::Found(_)),
                "{}",
                call.name
            );
        }
    }

    #[test]
    fn what_is_not_offered_says_so() {
        assert_eq!(symbols::cuMemAllocManaged(), result::NOT_SUPPORTED);
    }
}

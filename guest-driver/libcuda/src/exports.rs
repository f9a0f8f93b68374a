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

            /// Their names and addresses.
            pub fn all() -> Vec<(&'static str, usize)> {
                vec![$((stringify!($symbol), $symbol as *const () as usize)),*]
            }
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
        return find_old(name, per_thread).map_or(Lookup::Unknown, Lookup::Found);
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

/// The newest function of a name that has no row, but old symbols only. Whatever version is asked for, they are there.
fn find_old(name: &[u8], per_thread: bool) -> Option<usize> {
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    let versions = |symbol: &str| -> Option<(bool, u32)> {
        let rest = symbol.strip_prefix(name)?;
        let (rest, own) = match rest.strip_suffix("_ptsz").or(rest.strip_suffix("_ptds")) {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        match rest {
            "" => Some((own, 1)),
            rest => Some((own, rest.strip_prefix("_v")?.parse().ok()?)),
        }
    };
    // A name with a version is none, as for the rows.
    let is_base = !name.ends_with("_ptsz") && !name.ends_with("_ptds") && !ends_with_version(name);
    old_symbols::all()
        .into_iter()
        .filter(|_| is_base)
        .filter_map(|(symbol, address)| Some((versions(symbol)?, address)))
        .filter(|((own, _), _)| per_thread || !own)
        .max()
        .map(|(_, address)| address)
}

fn ends_with_version(name: &str) -> bool {
    name.rsplit_once("_v")
        .is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
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
        assert_eq!(find(b"", 13000, false), Lookup::Unknown);
        let old = |symbol: &str| old_symbols::all().iter().find(|s| s.0 == symbol).map(|s| s.1);
        assert_eq!(
            find(b"cuProfilerInitialize", 13000, true),
            Lookup::Found(old("cuProfilerInitialize").unwrap())
        );
        assert_eq!(
            find(b"cuVDPAUCtxCreate", 13000, false),
            Lookup::Found(old("cuVDPAUCtxCreate_v2").unwrap())
        );
        assert_eq!(find(b"cuVDPAUCtxCreate_v2", 13000, false), Lookup::Unknown);
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
        assert_eq!(symbols::cuTexRefCreate(), result::NOT_SUPPORTED);
    }
}

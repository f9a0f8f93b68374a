//! Values of arguments: what is wrong with one is told with what was expected in its place.
use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::str::FromStr;

/// Reads a number within bounds. What it is of is told, as "a number of changes, such as 20".
pub fn number<T>(
    what: &'static str,
    bounds: impl RangeBounds<T> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number.ok_or_else(|| {
            let bounds = match (bounds.start_bound(), bounds.end_bound()) {
                (Bound::Included(least), Bound::Included(most)) => format!(", from {least} to {most}"),
                (Bound::Included(least), _) => format!(", from {least} on"),
                _ => String::new(),
            };
            format!("expected {what}{bounds}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_expected_is_told() {
        let weight = number::<u32>("a weight", 1..=100);
        assert_eq!((weight("1"), weight("100")), (Ok(1), Ok(100)));
        for wrong in ["0", "101", "-1", "1.5", "x", "", "1-3", "99999999999"] {
            assert_eq!(
                weight(wrong),
                Err("expected a weight, from 1 to 100".to_owned()),
                "{wrong}"
            );
        }
        let changes = number::<u64>("a number of changes, such as 20", 1..);
        assert_eq!(
            changes("0"),
            Err("expected a number of changes, such as 20, from 1 on".to_owned())
        );
        let vm = number::<u32>("a VM's number, such as 3", ..);
        assert_eq!(vm("0"), Ok(0));
        assert_eq!(vm("1-3"), Err("expected a VM's number, such as 3".to_owned()));
    }
}

//! Changing the elements of an array while everything between them, comments above all, stays.
//!
//! What is written between two elements belongs to the later one, as its prefix; what follows the last one is the
//! array's trailing text. So the comment at the end of an element's line is part of the next element's prefix.
use toml_edit::{Array, RawString, Value};

/// Puts an element before the one at `index`, or at the end, and lays it out as its neighbours are.
pub fn insert(array: &mut Array, index: usize, mut value: Value) {
    let indent = indent(array);
    let prefix = if index < array.len() {
        let old = prefix(array, index);
        let (new, rest) = match old.split_once('\n') {
            // The rest of the line above stays where it is.
            Some((line, rest)) => (format!("{line}\n{indent}"), format!("\n{rest}")),
            None => (old, " ".to_owned()),
        };
        set_prefix(array, index, rest);
        new
    } else {
        let end = take_end(array);
        let (new, rest) = match end.rsplit_once('\n') {
            Some((lines, rest)) => (format!("{lines}\n{indent}"), format!("\n{rest}")),
            None if array.is_empty() => (String::new(), end),
            None => (" ".to_owned(), end),
        };
        array.set_trailing(rest);
        new
    };
    value.decor_mut().set_prefix(prefix);
    value.decor_mut().set_suffix("");
    array.insert_formatted(index, value);
}

/// Changes the element's value.
pub fn replace(array: &mut Array, index: usize, value: impl Into<Value>) {
    array.replace(index, value);
}

/// Takes the element away.
pub fn remove(array: &mut Array, index: usize) {
    let before = prefix(array, index);
    let last = index + 1 == array.len();
    let after = if last {
        take_end(array)
    } else {
        prefix(array, index + 1)
    };
    let own = array.remove(index);
    let own_suffix = text(own.decor().suffix());
    let after = format!("{own_suffix}{after}");
    let joined = join(&before, &after, index == 0 && !last);
    if last {
        array.set_trailing(joined);
    } else {
        set_prefix(array, index, joined);
    }
}

/// The text that is left of what stood before and after an element that went.
fn join(before: &str, after: &str, first: bool) -> String {
    let comment = after.trim_start_matches([' ', '\t']);
    if comment.starts_with('#') {
        // It was at the end of the element's line; on the line above it would speak of another one.
        return format!("{before}{comment}");
    }
    if before.contains('#') {
        let lines = before.trim_end_matches([' ', '\t']);
        return format!("{lines}{}", after.strip_prefix('\n').unwrap_or(after));
    }
    if first && !after.contains('#') {
        return before.to_owned();
    }
    after.to_owned()
}

/// What stands between the last element and the bracket, which then is gone from there.
fn take_end(array: &mut Array) -> String {
    let trailing = array.trailing().as_str().unwrap_or_default().to_owned();
    let last = array.len().checked_sub(1).and_then(|last| array.get_mut(last));
    let suffix = last.map(|last| {
        let suffix = text(last.decor().suffix());
        last.decor_mut().set_suffix("");
        suffix
    });
    array.set_trailing("");
    suffix.unwrap_or_default() + &trailing
}

/// What an element's line begins with.
fn indent(array: &Array) -> String {
    let prefixes = array.iter().map(|value| text(value.decor().prefix()));
    let mut indents = prefixes.filter_map(|prefix| Some(prefix.rsplit_once('\n')?.1.to_owned()));
    indents.next().unwrap_or_else(|| "  ".to_owned())
}

fn prefix(array: &Array, index: usize) -> String {
    match array.get(index).and_then(|value| value.decor().prefix()) {
        Some(prefix) => text(Some(prefix)),
        // As it is written when nothing is said.
        None if index == 0 => String::new(),
        None => " ".to_owned(),
    }
}

fn set_prefix(array: &mut Array, index: usize, prefix: String) {
    if let Some(value) = array.get_mut(index) {
        value.decor_mut().set_prefix(prefix);
    }
}

fn text(raw: Option<&RawString>) -> String {
    raw.and_then(RawString::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(text: &str) -> Array {
        let doc: toml_edit::DocumentMut = format!("a = {text}\n").parse().unwrap();
        doc["a"].as_array().unwrap().clone()
    }

    fn written(array: &Array) -> String {
        let mut array = array.clone();
        array.decor_mut().clear();
        array.to_string()
    }

    #[test]
    fn elements_are_laid_out_as_their_neighbours() {
        for (before, index, after) in [
            ("[]", 0, "[5]"),
            ("[1]", 1, "[1, 5]"),
            ("[1, 2]", 0, "[5, 1, 2]"),
            ("[1, 2]", 1, "[1, 5, 2]"),
            ("[ 1, 2 ]", 2, "[ 1, 2, 5 ]"),
            ("[\n    1,\n    2,\n]", 2, "[\n    1,\n    2,\n    5,\n]"),
            ("[\n    1,\n    2\n]", 2, "[\n    1,\n    2,\n    5\n]"),
            ("[\n 1, # one\n 2, # two\n]", 1, "[\n 1, # one\n 5,\n 2, # two\n]"),
            ("[\n 1, # one\n 2, # two\n]", 2, "[\n 1, # one\n 2, # two\n 5,\n]"),
            ("[\n 1, # one\n 2 # two\n]", 2, "[\n 1, # one\n 2, # two\n 5\n]"),
            ("[\n # some\n 1,\n]", 0, "[\n 5,\n # some\n 1,\n]"),
            ("[\n # none\n]", 0, "[\n # none\n  5\n]"),
        ] {
            let mut array = array(before);
            insert(&mut array, index, 5.into());
            assert_eq!(written(&array), after, "{before} {index}");
        }
    }

    #[test]
    fn comments_stay_when_elements_go() {
        for (before, index, after) in [
            ("[1]", 0, "[]"),
            ("[1, 2, 3]", 0, "[2, 3]"),
            ("[1, 2, 3]", 1, "[1, 3]"),
            ("[1, 2, 3]", 2, "[1, 2]"),
            ("[ 1, 2 ]", 1, "[ 1 ]"),
            ("[\n 1,\n 2,\n]", 1, "[\n 1,\n]"),
            ("[\n 1,\n 2\n]", 1, "[\n 1\n]"),
            (
                "[\n 1, # one\n 2, # two\n 3, # three\n]",
                1,
                "[\n 1, # one\n # two\n 3, # three\n]",
            ),
            ("[\n 1, # one\n 2, # two\n]", 1, "[\n 1, # one\n # two\n]"),
            ("[\n 1, # one\n 2 # two\n]", 1, "[\n 1 # one\n # two\n]"),
            ("[\n # some\n 1,\n 2,\n]", 0, "[\n # some\n 2,\n]"),
            ("[\n # all\n 1,\n]", 0, "[\n # all\n]"),
        ] {
            let mut array = array(before);
            remove(&mut array, index);
            assert_eq!(written(&array), after, "{before} {index}");
        }
    }
}

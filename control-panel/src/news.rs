//! What changed from one answer of `vgpud` to the next, as a JSON Patch (RFC 6902).
use crate::vgpud::json;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

/// It passes all the time: that is nothing new.
const TIME: &str = "/uptime_s";

/// An answer that is another one than that before.
#[derive(Debug)]
pub struct News {
    pub tree: Value,
    /// From 1 on.
    pub version: u64,
    /// When it was read, in milliseconds since 1970.
    pub at_ms: u64,
    /// What makes it of the version before, if there was one.
    pub patch: Option<String>,
}

impl News {
    /// Those that were told last, if nothing but the time is new.
    pub fn of(tree: Value, at_ms: u64, last: Option<&Arc<Self>>) -> Arc<Self> {
        let Some(last) = last else {
            return Arc::new(Self {
                tree,
                version: 1,
                at_ms,
                patch: None,
            });
        };
        let patch = diff(&last.tree, &tree);
        if patch.iter().all(|operation| operation.path() == TIME) {
            return last.clone();
        }
        let patch = Some(json(&patch));
        Arc::new(Self {
            tree,
            version: last.version + 1,
            at_ms,
            patch,
        })
    }
}

/// One step of a patch.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Operation<'a> {
    Replace { path: String, value: &'a Value },
    Add { path: String, value: &'a Value },
    Remove { path: String },
}

impl Operation<'_> {
    fn path(&self) -> &str {
        match self {
            Self::Replace { path, .. } | Self::Add { path, .. } | Self::Remove { path } => path,
        }
    }
}

/// What makes the new value of the old one.
fn diff<'a>(old: &Value, new: &'a Value) -> Vec<Operation<'a>> {
    let mut patch = Vec::new();
    add(old, new, "", &mut patch);
    patch
}

/// Adds what is different at a place. Where that would be longer than all that is there now, it is all that is there.
fn add<'a>(old: &Value, new: &'a Value, place: &str, patch: &mut Vec<Operation<'a>>) {
    if old == new {
        return;
    }
    let before = patch.len();
    match (old, new) {
        (Value::Object(old), Value::Object(new)) if old.keys().eq(new.keys()) => {
            for ((key, new), old) in new.iter().zip(old.values()) {
                let key = key.replace('~', "~0").replace('/', "~1");
                add(old, new, &format!("{place}/{key}"), patch);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for (at, (old, new)) in old.iter().zip(new).enumerate() {
                add(old, new, &format!("{place}/{at}"), patch);
            }
            for at in (new.len()..old.len()).rev() {
                let path = format!("{place}/{at}");
                patch.push(Operation::Remove { path });
            }
            for (at, value) in new.iter().enumerate().skip(old.len()) {
                let path = format!("{place}/{at}");
                patch.push(Operation::Add { path, value });
            }
        }
        _ => {}
    }
    let all = Operation::Replace {
        path: place.to_owned(),
        value: new,
    };
    let len = |operations: &[Operation<'_>]| operations.iter().map(|one| json(one).len() + 1).sum::<usize>();
    let steps = &patch[before..];
    if steps.is_empty() || (steps.len() > 1 && len(steps) > len(std::slice::from_ref(&all))) {
        patch.truncate(before);
        patch.push(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vgpu_client::fixture;
    use vgpu_sched_api::messages::Status;

    fn tree(status: &Status) -> Value {
        serde_json::to_value(status).unwrap()
    }

    /// What a client makes of what it has and of what it is sent.
    fn patched(mut old: Value, patch: &str) -> Value {
        let patch: json_patch::Patch = serde_json::from_str(patch).unwrap();
        json_patch::patch(&mut old, &patch).unwrap();
        old
    }

    #[test]
    fn only_what_changed_is_news() {
        let first = News::of(tree(&fixture::host()), 1, None);
        assert!(first.patch.is_none());
        // Time passes all the time.
        let mut later = fixture::host();
        later.uptime_s += 1;
        let second = News::of(tree(&later), 2, Some(&first));
        assert!(Arc::ptr_eq(&first, &second));
        later.uptime_s += 1;
        later.gpus[0].measured.temperature = Some(99);
        let third = News::of(tree(&later), 3, Some(&second));
        let expected = r#"[{"op":"replace","path":"/gpus/0/measured/temperature","value":99},{"op":"replace","path":"/uptime_s","value":100002}]"#;
        assert_eq!((third.version, third.patch.as_deref()), (2, Some(expected)));
    }

    /// Any JSON, whose values are often the same and whose names must be escaped.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            (0..3).prop_map(Value::from),
            "[a/~]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[ab~/]{1,2}", inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_sent_makes_the_later_of_the_earlier(old in value(), new in value()) {
            let patch = json(&diff(&old, &new));
            prop_assert_eq!(&patched(old, &patch), &new);
            // And never costs much more than all of it.
            prop_assert!(patch.len() <= json(&new).len() + json(&Operation::Replace { path: String::new(), value: &Value::Null }).len());
        }
    }
}

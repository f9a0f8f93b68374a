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
    add(old, new, &mut String::new(), &mut patch);
    patch
}

/// Adds what is different at a place, and says whether all of it is put there: so is an object most of whose members would be,
/// which is shorter.
fn add<'a>(old: &Value, new: &'a Value, place: &mut String, patch: &mut Vec<Operation<'a>>) -> bool {
    let before = patch.len();
    let is_in_steps = match (old, new) {
        (Value::Object(old), Value::Object(new)) if old.keys().eq(new.keys()) => {
            let mut put = 0;
            for ((key, new), old) in new.iter().zip(old.values()) {
                let key = key.replace('~', "~0").replace('/', "~1");
                put += usize::from(at(place, &key, |place| add(old, new, place, patch)));
            }
            2 * put <= new.len()
        }
        (Value::Array(old), Value::Array(new)) => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                at(place, &index.to_string(), |place| add(old, new, place, patch));
            }
            for index in (new.len()..old.len()).rev() {
                let path = format!("{place}/{index}");
                patch.push(Operation::Remove { path });
            }
            for (index, value) in new.iter().enumerate().skip(old.len()) {
                let path = format!("{place}/{index}");
                patch.push(Operation::Add { path, value });
            }
            true
        }
        _ => old == new,
    };
    if !is_in_steps {
        patch.truncate(before);
        let path = place.clone();
        patch.push(Operation::Replace { path, value: new });
    }
    !is_in_steps
}

/// Does something at a place within another one.
fn at<T>(place: &mut String, name: &str, act: impl FnOnce(&mut String) -> T) -> T {
    let len = place.len();
    place.push('/');
    place.push_str(name);
    let done = act(place);
    place.truncate(len);
    done
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
        }
    }
}

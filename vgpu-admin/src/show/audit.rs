//! Who changed what.
use super::{Screen, moment, printable};
use serde_json::Value;
use vgpu_sched_api::messages::ChangeRecord;

/// The changes, the oldest first, some lines each; with the pool map's lines that went and came if they are wanted.
pub fn audit(changes: &[ChangeRecord], diff: bool, screen: Screen) -> String {
    if changes.is_empty() {
        return "Nothing was changed.\n".to_owned();
    }
    changes.iter().map(|change| one(change, diff, screen)).collect()
}

fn one(record: &ChangeRecord, diff: bool, screen: Screen) -> String {
    let uid = match record.uid {
        Some(uid) => format!("uid {uid}"),
        None => "a signal".to_owned(),
    };
    let who = match &record.user {
        Some(user) => format!("{} ({uid})", printable(user)),
        None => uid,
    };
    // What there is to say of it is what it consists of, so that every kind of change is shown.
    let asked =
        serde_json::to_value(&record.change).map_or_else(|error| error.to_string(), |json| words(&json));
    let mut said = vec![format!("{who}: {}", printable(&asked))];
    said.extend(record.changes.iter().map(|line| printable(line)));
    said.extend(
        record
            .refused
            .iter()
            .map(|why| format!("REFUSED: {}", printable(why))),
    );
    let mut text = screen.row(&[record.number.to_string(), moment(record.at_s), said.join("\n")]);
    if diff {
        let lines = record.diff.lines().filter(|line| line.starts_with(['+', '-']));
        // The names of the two texts say nothing.
        for line in lines.skip(2) {
            text += &format!("    {}\n", printable(line));
        }
    }
    text
}

/// "set_vms vms=1-7 weight=2": the values of texts that say what it is, and the others with their keys, without those that say nothing.
fn words(json: &Value) -> String {
    match json {
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| match value {
                Value::Null | Value::Bool(false) => None,
                Value::String(kind) if key == "verb" || key == "edit" => Some(kind.clone()),
                Value::Object(_) => Some(words(value)).filter(|words| !words.is_empty()),
                Value::Array(items) if items.iter().all(Value::is_object) && !items.is_empty() => {
                    Some(items.iter().map(words).collect::<Vec<_>>().join("; "))
                }
                value => Some(format!("{key}={}", words(value))),
            };
            let kind_first = fields
                .iter()
                .filter(|(key, _)| ["verb", "edit"].contains(&key.as_str()));
            let others = fields
                .iter()
                .filter(|(key, _)| !["verb", "edit"].contains(&key.as_str()));
            kind_first
                .chain(others)
                .filter_map(field)
                .collect::<Vec<_>>()
                .join(" ")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SCREEN, fits};
    use super::*;
    use vgpu_client::fixture;
    use vgpu_sched_api::messages::{Change, Edit, Limits, PoolSettings, Rung, VmSettings};

    #[test]
    fn a_change_is_told_with_who_made_it() {
        let change = fixture::change(1);
        let told = [
            "1  2023-11-14T22:13:20Z  anna (uid 990): edit set_vms priority=high vms=1\n",
            "                         VM 1: priority high, was medium\n",
        ]
        .concat();
        assert_eq!(audit(std::slice::from_ref(&change), false, SCREEN), told);
        assert_eq!(
            audit(std::slice::from_ref(&change), true, SCREEN),
            told + "    -priority = \"medium\"\n    +priority = \"high\"\n"
        );
        let refused = ChangeRecord {
            uid: None,
            user: None,
            change: Change::Reload {},
            changes: Vec::new(),
            refused: Some("it is\nwrong ".repeat(20)),
            ..change
        };
        let text = audit(&[refused], true, SCREEN);
        fits(&text);
        assert!(
            text.starts_with("1  2023-11-14T22:13:20Z  a signal: reload\n"),
            "{text}"
        );
        assert!(text.contains("REFUSED: it is\\nwrong"), "{text}");
    }

    #[test]
    fn every_change_has_words() {
        let said = |change: Change| words(&serde_json::to_value(change).unwrap());
        let edits = vec![
            Edit::RegisterVms {
                vms: "1-7".to_owned(),
                pool: "A".to_owned(),
                settings: VmSettings {
                    limits: Limits {
                        call_rate: Some(0),
                        ..Limits::default()
                    },
                    ..VmSettings::default()
                },
                move_from_other: true,
            },
            Edit::SetPool {
                pool: "B".to_owned(),
                settings: PoolSettings {
                    ladder: Some(vec![Rung::Stop]),
                    ..PoolSettings::default()
                },
            },
        ];
        assert_eq!(
            said(Change::Edit { edits }),
            "edit register_vms move_from_other=true pool=A call_rate=0 vms=1-7; set_pool pool=B ladder=[\"stop\"]"
        );
        let quarantine = Change::Quarantine {
            vms: "1".to_owned(),
            why: "too loud".to_owned(),
            seconds: None,
        };
        assert_eq!(said(quarantine), "quarantine vms=1 why=too loud");
        assert_eq!(said(Change::Undo { number: 3 }), "undo number=3");
    }
}

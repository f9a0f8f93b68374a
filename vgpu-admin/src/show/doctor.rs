//! How this host is.
use super::{Screen, printable};
use crate::doctor::{Finding, Level};

/// The findings, each with what to do about it, and how many of them are bad.
pub fn doctor(findings: &[Finding], screen: Screen) -> String {
    let mut table = screen.table(&["", "what", "found"]).prose();
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Unseen => "not seen",
            Level::Warning => "WARNING",
            Level::Wrong => "WRONG",
        };
        let mut found = printable(&finding.found);
        if let Some(advice) = &finding.advice {
            found += &format!("\n-> {}", printable(advice));
        }
        table.add_row([level.to_owned(), finding.check.to_owned(), found]);
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let said = match (count(Level::Wrong), count(Level::Warning), count(Level::Unseen)) {
        (0, 0, 0) => "All is well.".to_owned(),
        (wrong, warnings, unseen) => {
            let number = |count: usize, one: &str, many: &str| match count {
                0 => None,
                1 => Some(format!("1 {one}")),
                count => Some(format!("{count} {many}")),
            };
            let parts: Vec<String> = [
                number(wrong, "thing is wrong", "things are wrong"),
                number(warnings, "warning", "warnings"),
                number(unseen, "could not be seen", "could not be seen"),
            ]
            .into_iter()
            .flatten()
            .collect();
            parts.join(", ")
        }
    };
    table.written() + &format!("\n{said}\n")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, SCREEN, fits};
    use super::*;

    #[test]
    fn findings_are_told_with_what_to_do() {
        let finding = |level, found: &str, advice: Option<&str>| Finding {
            check: "vgpud",
            level,
            found: found.to_owned(),
            advice: advice.map(str::to_owned),
        };
        let all = [
            finding(Level::Ok, "answers", None),
            finding(
                Level::Wrong,
                &"it is gone ".repeat(12),
                Some(&"start it ".repeat(12)),
            ),
            finding(Level::Warning, "\x1b[2J", Some("look")),
        ];
        let text = doctor(&all, SCREEN);
        fits(&text);
        for part in [
            "ok       vgpud  answers\n",
            "WRONG    vgpud  it is gone it",
            "-> start it",
            "\\u{1b}[2J",
            "\n\n1 thing is wrong, 1 warning\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(doctor(&all, PLAIN).is_ascii());
        assert!(doctor(&all[..1], SCREEN).ends_with("\n\nAll is well.\n"));
    }
}

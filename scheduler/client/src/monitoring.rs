//! What is handed out for Prometheus and Grafana, in `monitoring/`, asks for statistics and labels that there are.
use crate::fixture;
use crate::statistics::{STATISTICS, prometheus};
use promql_parser::parser::{self, AggregateExpr, BinaryExpr, Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const ALERTS: &str = include_str!("../../../monitoring/vgpu-alerts.yml");
const DASHBOARD: &str = include_str!("../../../monitoring/vgpu-dashboard.json");

/// The labels that Prometheus gives to all it reads.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];
/// What Grafana puts into an expression before it asks.
const VARIABLES: [(&str, &str); 1] = [("$__rate_interval", "5m")];

/// A file of rules, as far as Prometheus knows its keys and there is use for them here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(rename = "for")]
    lasting: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// Each series that there is, with its labels: a summary has three.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut series: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let text = prometheus(&fixture::host(), &fixture::stats()).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Ok(Expr::VectorSelector(sample)) = parser::parse(line.rsplit_once(' ').unwrap().0) else {
            panic!("{line}")
        };
        let labels = sample.matchers.matchers.into_iter().map(|label| label.name);
        let known = series.entry(sample.name.unwrap()).or_default();
        known.extend(labels);
    }
    // Prometheus' own, of whether there was an answer.
    series.insert("up".to_owned(), BTreeSet::new());
    for labels in series.values_mut() {
        labels.extend(OF_PROMETHEUS.map(str::to_owned));
    }
    series
}

/// What an expression asks for.
#[derive(Default)]
struct Asked {
    series: Vec<VectorSelector>,
    /// Those of groups and matches.
    labels: BTreeSet<String>,
}

impl ExprVisitor for Asked {
    type Error = String;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, String> {
        match expr {
            Expr::VectorSelector(selector) => self.series.push(selector.clone()),
            Expr::MatrixSelector(matrix) => self.series.push(matrix.vs.clone()),
            Expr::Aggregate(AggregateExpr {
                modifier: Some(by), ..
            }) => self.labels.extend(by.labels().labels.iter().cloned()),
            Expr::Binary(BinaryExpr {
                modifier: Some(how), ..
            }) => {
                let on = how.matching.iter().map(|on| on.labels());
                let all = on.chain(how.card.labels()).flat_map(|labels| &labels.labels);
                self.labels.extend(all.cloned());
            }
            _ => {}
        }
        Ok(true)
    }
}

/// The labels that an expression's outcome may have, or what is wrong with it.
fn check(expr: &str) -> Result<BTreeSet<String>, String> {
    let known = series();
    let of = |name: &str| known.get(name).ok_or(format!("there is no {name}"));
    let expr = VARIABLES
        .iter()
        .fold(expr.to_owned(), |expr, (name, value)| expr.replace(name, value));
    let mut asked = Asked::default();
    walk_expr(&mut asked, &parser::parse(&expr)?)?;
    let mut labels = BTreeSet::new();
    for VectorSelector { name, matchers, .. } in &asked.series {
        let name = name.as_deref().ok_or("a series without a name")?;
        let own = of(name)?;
        if let Some(label) = matchers.matchers.iter().find(|label| !own.contains(&label.name)) {
            return Err(format!("{name} has no label {}", label.name));
        }
        labels.extend(own.iter().cloned());
    }
    match asked.labels.difference(&labels).next() {
        Some(label) => Err(format!("there is no label {label}")),
        None if asked.series.is_empty() => Err("it asks for nothing".to_owned()),
        None => Ok(labels),
    }
}

/// The labels that a text of Prometheus' or Grafana's wants to have in it, after that mark.
fn wanted<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    text.split("{{").skip(1).filter_map(move |rest| {
        let inside = rest.split("}}").next()?.trim().strip_prefix(mark)?;
        inside.split([' ', '|']).next()
    })
}

#[test]
fn alerts_ask_for_what_there_is() {
    let rules: Rules = serde_saphyr::from_str(ALERTS).unwrap();
    let mut names = BTreeSet::new();
    for Rule {
        alert,
        expr,
        lasting,
        labels,
        annotations,
    } in rules.groups.iter().flat_map(|group| &group.rules)
    {
        assert!(names.insert(alert), "there are two {alert}");
        let known = check(expr).unwrap_or_else(|error| panic!("{alert}: {error}"));
        let texts: Vec<&str> = annotations.keys().map(String::as_str).collect();
        assert_eq!(texts, ["description", "summary"], "{alert}");
        for label in annotations.values().flat_map(|text| wanted(text, "$labels.")) {
            assert!(known.contains(label), "{alert} has no label {label}");
        }
        let severity = labels.get("severity").map(String::as_str);
        assert!(
            matches!(severity, Some("critical" | "warning" | "info")),
            "{alert}: {severity:?}"
        );
        if let Some(lasting) = lasting {
            parser::parse(&format!("up[{lasting}]")).unwrap_or_else(|error| panic!("{alert}: {error}"));
        }
    }
    assert!(rules.groups.iter().all(|group| !group.name.is_empty()) && !names.is_empty());
}

/// Every object in it, however deep.
fn objects<'a>(value: &'a Value, found: &mut Vec<&'a serde_json::Map<String, Value>>) {
    match value {
        Value::Object(object) => {
            found.push(object);
            object.values().for_each(|value| objects(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| objects(value, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut all = Vec::new();
    objects(&dashboard, &mut all);
    let (mut panels, mut asked) = (BTreeSet::new(), String::new());
    for object in all {
        let text = |key| object.get(key).and_then(Value::as_str);
        if let Some(expr) = text("expr") {
            let known = check(expr).unwrap_or_else(|error| panic!("{expr}: {error}"));
            for label in wanted(text("legendFormat").unwrap(), "") {
                assert!(known.contains(label), "{expr} has no label {label}");
            }
            asked += expr;
        }
        if let Some(values) = text("definition") {
            let (expr, label) = values
                .strip_prefix("label_values(")
                .and_then(|values| values.strip_suffix(')')?.rsplit_once(", "))
                .unwrap_or_else(|| panic!("{values}"));
            assert!(check(expr).unwrap().contains(label), "{values}");
            assert_eq!(object["query"]["query"], values);
        }
        if object.contains_key("gridPos") {
            assert!(panels.insert(object["id"].as_u64()), "{object:?}");
        }
    }
    // It shows whatever GPUs measure that changes.
    for statistic in STATISTICS
        .iter()
        .filter(|statistic| statistic.name.starts_with("vgpu_gpu_"))
    {
        let is_a_mode = statistic.name.ends_with("_enabled");
        assert!(is_a_mode || asked.contains(statistic.name), "{}", statistic.name);
    }
}

#[test]
fn what_there_is_not_is_found() {
    for wrong in [
        "vgpu_nothing > 1",
        "vgpu_gpu_missing{uuid=\"x\"}",
        "rate(vgpu_vm_calls_total{gpu=\"0\"}[$__rate_interval])",
        "sum by (vm) (vgpu_gpu_missing)",
        "vgpu_gpu_missing unless on (vm) vgpu_gpu_power_watts",
        "vgpu_vm_call_wait_seconds_sum{quantile=\"0.99\"}",
        "{gpu=\"0\"}",
        "time()",
        "vgpu_gpu_missing ==",
    ] {
        assert!(check(wrong).is_err(), "{wrong}");
    }
    let labels = check("vgpu_vm_call_wait_seconds{quantile=\"0.99\"}").unwrap();
    assert!(
        ["vm", "pool", "instance", "quantile"]
            .iter()
            .all(|label| labels.contains(*label))
    );
    let text = "a {{ $labels.gpu }}, {{$value | humanize}} {{ $labels.vm | x }} {{hostname}}";
    assert_eq!(wanted(text, "$labels.").collect::<Vec<_>>(), ["gpu", "vm"]);
}

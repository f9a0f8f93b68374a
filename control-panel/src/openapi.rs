//! What programs are told of what they may ask: the paths as `page/openapi.json` has them, and every object as its type
//! has it.
use crate::history::Shares;
use crate::routes::{Changes, Error, Events, GpuUsage, LogIn, Me, Nothing, Order, Outcome, Usage, Versioned};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};
use std::sync::LazyLock;
use vgpu_pool_map::{
    GPUS_PER_VM_MAX, LIMITS, MS_MAX, QUEUE_DEPTH_MAX, REASON_LEN_MAX, SECONDS_MAX, WEIGHT_MAX,
};
use vgpu_sched_api::messages::{Scanned, Stats, Status};

const PATHS: &str = include_str!("page/openapi.json");

/// The document, in OpenAPI 3.1.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        let mut document: Value = serde_json::from_str(PATHS).expect("a document, as its test sees");
        document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
        document["components"]["schemas"] = schemas();
        document
    });
    &DOCUMENT
}

/// The same as it is sent.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    &TEXT
}

/// Every object, by its name.
fn schemas() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let mut named = Map::new();
    add::<Status>(&mut generator, &mut named, "Status");
    add::<Stats>(&mut generator, &mut named, "Stats");
    add::<Error<'_>>(&mut generator, &mut named, "Error");
    add::<Versioned<Events>>(&mut generator, &mut named, "Events");
    add::<Versioned<Usage>>(&mut generator, &mut named, "Usage");
    add::<Versioned<GpuUsage>>(&mut generator, &mut named, "GpuUsage");
    add::<Versioned<Shares>>(&mut generator, &mut named, "History");
    add::<Versioned<Changes>>(&mut generator, &mut named, "Changes");
    add::<Versioned<Outcome>>(&mut generator, &mut named, "Outcome");
    add::<Versioned<Scanned>>(&mut generator, &mut named, "Scanned");
    add::<Versioned<Me>>(&mut generator, &mut named, "Me");
    add::<Versioned<()>>(&mut generator, &mut named, "Done");
    add::<Order>(&mut generator, &mut named, "Order");
    add::<LogIn>(&mut generator, &mut named, "LogIn");
    add::<Nothing>(&mut generator, &mut named, "Nothing");
    for (name, schema) in generator.take_definitions(true) {
        named.entry(name).or_insert(schema);
    }
    let mut schemas = Value::Object(named);
    plain(&mut schemas);
    complete(&mut schemas);
    for limit in LIMITS {
        let about = format!("{}; 0: {}; not set: {}.", limit.about, limit.zero, limit.unset);
        schemas["Limits"]["properties"][limit.key]["description"] = about.into();
        bound(&mut schemas["Limits"], limit.key, 0, limit.most);
    }
    let vm = &mut schemas["VmSettings"];
    bound(vm, "weight", 1, WEIGHT_MAX.into());
    bound(vm, "queue_depth", 1, QUEUE_DEPTH_MAX.into());
    bound(vm, "aging_ms", 1, MS_MAX);
    let pool = &mut schemas["PoolSettings"];
    bound(pool, "weight", 1, WEIGHT_MAX.into());
    bound(pool, "gpus_per_vm", 0, GPUS_PER_VM_MAX.into());
    let verbs = schemas["Change"]["oneOf"].as_array_mut().expect("verbs");
    for verb in verbs {
        if verb["properties"]["verb"]["const"] == "quarantine" {
            bound(verb, "seconds", 1, SECONDS_MAX);
            let why = &mut verb["properties"]["why"];
            why["minLength"] = 1.into();
            why["maxLength"] = REASON_LEN_MAX.into();
            why["description"] = "Why: one line.".into();
        }
    }
    schemas
}

/// What a number must be, as the pool map has it.
fn bound(schema: &mut Value, key: &str, least: u64, most: u64) {
    let schema = &mut schema["properties"][key];
    schema["minimum"] = least.into();
    schema["maximum"] = most.into();
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator, named: &mut Map<String, Value>, name: &str) {
    named.insert(name.to_owned(), T::json_schema(generator).to_value());
}

/// Texts say what programs see, not what the source calls it.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "description" => {
                        *text = text
                            .replace(['[', ']'], "")
                            .replace("`None`", "null")
                            .replace('\n', " ");
                    }
                    other => plain(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

/// An answer has all its keys, always. What is sent is the one that may have no others.
fn complete(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("additionalProperties") != Some(&false.into())
                && let Some(Value::Object(properties)) = fields.get("properties")
            {
                let all: Vec<Value> = properties.keys().map(|key| key.as_str().into()).collect();
                fields.insert("required".to_owned(), all.into());
            }
            fields.values_mut().for_each(complete);
        }
        Value::Array(items) => items.iter_mut().for_each(complete),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A form that is made of them takes what vgpud takes, and nothing else.
    #[test]
    fn a_quarantine_has_its_bounds() {
        let schemas = &document()["components"]["schemas"];
        let verbs = schemas["Change"]["oneOf"].as_array().unwrap();
        let quarantine = verbs
            .iter()
            .find(|verb| verb["properties"]["verb"]["const"] == "quarantine");
        let taken = &quarantine.unwrap()["properties"];
        assert_eq!(
            (&taken["seconds"]["minimum"], &taken["seconds"]["maximum"]),
            (&1.into(), &SECONDS_MAX.into())
        );
        let line = "a".repeat(taken["why"]["maxLength"].as_u64().unwrap() as usize);
        assert_eq!(vgpu_pool_map::reason(&line), Ok(line.as_str()));
        assert!(vgpu_pool_map::reason(&format!("{line}a")).is_err());
    }
}
